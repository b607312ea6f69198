"""Definitions are found where the operator says, and every problem names its file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from saga_worker.loading import load
from saga_worker.saga.errors import ConfigurationError, DefinitionError, SagaWorkerError

STORY = """
from pydantic import BaseModel
from saga_worker import Event, Saga

class Asked(Event, type="asked.{name}"):
    id: str

class Answered(Event):
    id: str

class Question(BaseModel):
    id: str

{name} = Saga("{name}", state=Question, version={version})

@{name}.starts_on(Asked, key=lambda e: e.id)
def asked(event: Asked) -> Question:
    return Question(id=event.id)

@{name}.emit
def answer(question: Question) -> Answered:
    return Answered(id=question.id)

{name}.flow(answer)
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a file of definitions below an empty current directory; forgets what was imported afterwards."""

    def write_file(path: str, text: str = STORY, *, name: str = "story", version: int = 1) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.format(name=name, version=version) if text is STORY else text)
        return file

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield write_file
    for name in [name for name, module in sys.modules.items() if _lies_in(tmp_path, module)]:
        del sys.modules[name]


def _lies_in(directory: Path, module: ModuleType) -> bool:
    places = (getattr(module, "__file__", None), *getattr(module, "__path__", ()))
    return any(place is not None and place.startswith(str(directory)) for place in places)


def refusal(path: str, kind: type[SagaWorkerError]) -> str:
    with pytest.raises(kind) as error:
        load(path)
    return str(error.value)


def test_every_file_of_a_directory_is_loaded(write: Write) -> None:
    write("sagas/first.py", name="first")
    write("sagas/second.py", name="second", version=3)

    assert load("sagas").versions() == (("first", 1), ("second", 3))


def test_files_may_import_each_other_and_private_ones_are_left_to_them(write: Write) -> None:
    write("sagas/_shared.py", name="shared")
    write("sagas/first.py", "from ._shared import shared as one")
    write("sagas/second.py", "from sagas.first import one")

    assert load("sagas").names() == ("shared",)


def test_definitions_may_import_what_stands_beside_their_directory(write: Write) -> None:
    write("shop_prices.py", "CENTS = 100")
    write("sagas/first.py", f"from shop_prices import CENTS\n{STORY.format(name='first', version=1)}")

    assert load("sagas").names() == ("first",)


def test_a_directory_may_be_a_package_and_have_any_name(write: Write) -> None:
    write("my-sagas.d/__init__.py", "LIMIT = 5")
    write("my-sagas.d/first.py", f"from . import LIMIT\n{STORY.format(name='first', version=1)}")

    assert load("my-sagas.d").names() == ("first",)


def test_a_directory_named_like_another_package_does_not_get_in_its_way(write: Write) -> None:
    write("json/first.py", name="first")

    assert load("json").names() == ("first",)
    import json

    assert json.loads("1") == 1


def test_directories_of_one_name_are_kept_apart(write: Write) -> None:
    write("a/sagas/story.py", name="first")
    write("b/sagas/story.py", name="second")

    assert load("a/sagas").names() == ("first",)
    assert load("b/sagas").names() == ("second",)


def test_one_file_is_enough(write: Write) -> None:
    file = write("sagas/first.py", name="first")
    write("sagas/second.py", name="second")

    assert load(str(file)).names() == load("sagas/first.py").names() == ("first",)


def test_a_dotted_module_or_package_is_loaded(write: Write) -> None:
    write("shop/sagas/first.py", name="first")
    write("shop/sagas/second.py", name="second")

    assert load("shop.sagas.first").names() == ("first",)
    assert load("shop.sagas").names() == ("first", "second")


@pytest.mark.parametrize("path", ["nowhere", "no/where", "nowhere.py", "no.where", "story.gone"])
def test_a_place_that_is_not_there_is_refused(write: Write, path: str) -> None:
    write("story.py")

    assert refusal(path, ConfigurationError).startswith(f"{path}: there is no such file")


def test_a_place_without_sagas_is_refused(write: Write) -> None:
    write("sagas/nothing.py", "x = 1")

    assert refusal("sagas", ConfigurationError).startswith("sagas: there is no saga here")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def broken(:", "SyntaxError: "),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_with_its_error(write: Write, text: str, problem: str) -> None:
    write("sagas/good.py")
    write("sagas/wrong.py", text)

    assert refusal("sagas", ConfigurationError).startswith(f"sagas/wrong.py: importing it failed with {problem}")


def test_the_original_error_stays_behind_the_refusal(write: Write) -> None:
    write("sagas/wrong.py", "1 / 0")

    with pytest.raises(ConfigurationError) as error:
        load("sagas")
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_a_wrong_declaration_names_its_file_and_line(write: Write) -> None:
    write("sagas/wrong.py", 'from saga_worker import Saga\n\nSaga("x", state=dict)')

    text = refusal("sagas", DefinitionError)
    assert text.startswith("sagas/wrong.py: ")
    assert "sagas/wrong.py:3: saga x: state is" in text


def test_two_sagas_of_one_name_and_version_are_refused(write: Write) -> None:
    write("sagas/first.py")
    write("sagas/second.py")

    text = refusal("sagas", DefinitionError)
    assert "sagas/second.py:" in text
    assert "saga story version 1 is defined at" in text
    assert "sagas/first.py:" in text

"""From the path that an operator names to the definitions of this process.

Takes a directory, a file or a dotted module, guarantees that every problem names its file, and hands a checked
`Registry` to whoever composes the worker.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from hashlib import sha256
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from saga_worker.saga.definition import Saga
from saga_worker.saga.errors import ConfigurationError, DefinitionError
from saga_worker.saga.registry import Registry


def load(path: str | Path) -> Registry:
    """Imports the definitions at `path`; raises `ConfigurationError` or `DefinitionError`, naming the file.

    A directory is a package of its own name, so that its files may import each other; those that begin with an
    underscore are left to the others. What stands beside it can be imported too.
    """
    sagas: dict[int, Saga[Any]] = {}
    for module in _modules(str(path)):
        sagas |= {id(value): value for value in vars(module).values() if isinstance(value, Saga)}
    if not sagas:
        raise ConfigurationError(f"{path}: there is no saga here; define one, or name the place where they are.")
    return Registry(sagas.values())


def _modules(path: str) -> Iterator[ModuleType]:
    place = Path(path)
    if place.is_dir():
        _make_importable(place.resolve().parent)
        package = _package(place, shown=path)
        for file in sorted(place.glob("*.py")):
            if not file.name.startswith(("_", ".")):
                yield _imported(f"{package}.{file.stem}", shown=str(file))
    elif place.is_file():
        _make_importable(place.resolve().parent)
        yield _imported(f"{_package(place.parent, shown=path)}.{place.stem}", shown=path)
    elif all(part.isidentifier() for part in path.split(".")):
        _make_importable(Path.cwd())
        yield from _dotted(path)
    else:
        raise ConfigurationError(f"{path}: there is no such file or directory; name the place of your definitions.")


def _dotted(name: str) -> Iterator[ModuleType]:
    """A module, and what lies directly in it if it is a package."""
    module = _imported(name, shown=name)
    yield module
    for inner in iter_modules(getattr(module, "__path__", ())):
        if not inner.name.startswith("_"):
            yield _imported(f"{name}.{inner.name}", shown=f"{name}.{inner.name}")


def _imported(name: str, *, shown: str) -> ModuleType:
    try:
        return import_module(name)
    except DefinitionError as error:
        raise DefinitionError(f"{shown}: {error}") from error
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigurationError(f"{shown}: there is no such file, directory or module.") from error
        raise _failed(shown, error) from error
    except (Exception, SystemExit) as error:
        raise _failed(shown, error) from error


def _failed(shown: str, error: BaseException) -> ConfigurationError:
    return ConfigurationError(f"{shown}: importing it failed with {type(error).__name__}: {error}")


def _package(directory: Path, *, shown: str) -> str:
    """The name that `directory` can be imported by; a made-up one if its own belongs to another place."""
    home = directory.resolve()
    name = home.name.replace(".", "_") or "definitions"
    if not _is_free(name, home):
        name = f"{name}_{sha256(str(home).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        try:
            _create_package(name, home)
        except (Exception, SystemExit) as error:
            sys.modules.pop(name, None)
            raise _failed(shown, error) from error
    return name


def _is_free(name: str, home: Path) -> bool:
    """Whether `name` means nothing yet, or `home` itself."""
    try:
        spec = find_spec(name)
    except ValueError:  # a module without a spec, such as __main__
        return False
    return spec is None or home in {Path(location).resolve() for location in spec.submodule_search_locations or ()}


def _create_package(name: str, home: Path) -> None:
    init = home / "__init__.py"
    spec = spec_from_file_location(name, init, submodule_search_locations=[str(home)]) if init.is_file() else None
    if spec is None:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(home)]
    sys.modules[name] = module_from_spec(spec)
    if spec.loader is not None:
        spec.loader.exec_module(sys.modules[name])


def _make_importable(directory: Path) -> None:
    if str(directory) not in sys.path:
        sys.path.append(str(directory))

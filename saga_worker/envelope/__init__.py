"""Bytes and properties of a delivery to inbox rows. Pure: knows neither broker nor database."""

"""Fleets: a registry of devices and machines, releases and licences, a factory station, and a page that shows them.

Public data alone goes into a registry: every device passes the parser of device records on its way in, and no column
has room for a key. ``registry.open_registry`` is where to begin.
"""

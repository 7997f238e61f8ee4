"""The gRPC service: server, client and its asyncio twin, and how values and errors cross the wire.

Import what you need from its module: ``service.server`` (``serve``, ``ServerThread``), ``service.client`` (``Client``),
``service.aclient`` (``AsyncClient``). Nothing is imported here, so that a client never loads what only servers need.
"""

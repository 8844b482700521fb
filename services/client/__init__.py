"""A client of the REST service: the same methods to wait for (`Client`) or to await (`AsyncClient`).

Whatever fails on the way is tried again, which is safe for every call: a submission carries an idempotency
key, so that it makes one job however often it is sent.
"""

from services.client.awaited import AsyncClient
from services.client.sync import Client
from services.client.transport import ClientError, ServiceError

__all__ = ["AsyncClient", "Client", "ClientError", "ServiceError"]

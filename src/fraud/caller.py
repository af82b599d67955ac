"""Who sent a request, without saying who: what the drift check needs to cap one caller's influence."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

_SESSION = re.compile(r"(?<=:assumed-role/)([^/]+)/.*", re.DOTALL)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def caller_of(event: Any, key: str) -> str:
    """Pseudonym of who sent an event of API Gateway.

    Parameters
    ----------
    event : mapping
        REST (version 1.0) or HTTP (2.0).
    key : str
        Whoever knows it can test a guess; others cannot.

    Returns
    -------
    str
        Twelve hexadecimal digits: a keyed hash of API key, else signing principal, else address. Empty when nobody is
        known. All sessions of a role are one caller: who may assume it names them as they like.

    Examples
    --------
    >>> caller_of({"requestContext": {"identity": {"sourceIp": "192.0.2.1"}}}, "key") == caller_of({}, "key")
    False
    >>> caller_of({}, "key")
    ''
    """
    context = _mapping(_mapping(event).get("requestContext"))
    identity, http = _mapping(context.get("identity")), _mapping(context.get("http"))
    signed = _mapping(_mapping(context.get("authorizer")).get("iam"))
    principal = _SESSION.sub(r"\1", str(identity.get("userArn") or signed.get("userArn") or ""))
    who = str(identity.get("apiKeyId") or principal or identity.get("sourceIp") or http.get("sourceIp") or "")
    if not who:
        return ""
    text = who.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=6, key=key.encode()[:64]).hexdigest()

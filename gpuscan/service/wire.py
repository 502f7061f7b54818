"""What goes over the control socket: one line of JSON each way, both of bounded length, then it is closed."""

from __future__ import annotations

import json
from typing import Any

from gpuscan.base.errors import InputError
from gpuscan.files.reading import UnfitError, parse_json
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.service.waiting import NAMES, Name

SOCKET = "run/gpuscan/service.sock"
"""Below the root."""
REQUEST_BYTES = 4096
ANSWER_BYTES = 16 << 20


def request_line(order: str, nid: int | None) -> bytes:
    """Return the line that asks for something."""
    return json.dumps({"order": order, "node": nid}).encode() + b"\n"


def parse_request(line: bytes) -> tuple[Name, int | None]:
    """Return order and node of a line.

    Raises:
        InputError: it is no order.
    """
    try:
        document = parse_json(line)
    except UnfitError as error:
        raise InputError(f"a request {error}; send one line of JSON") from error
    if not isinstance(document, dict) or not document.keys() <= {"order", "node"}:
        raise InputError('a request is a table of "order" and "node"; send one')
    order, nid = document.get("order"), document.get("node")
    if order not in NAMES:
        raise InputError(f"there is no such order; send one of {', '.join(NAMES)}")
    if nid is not None and (type(nid) is not int or not 0 <= nid < N_NODES_MAX):
        raise InputError(f"node is no number of a node; send one from 0 to {N_NODES_MAX - 1}")
    return order, nid


def parse_answer(line: bytes) -> dict[str, Any]:
    """Return the document that a service answered with.

    Raises:
        InputError: that is none.
    """
    try:
        document = parse_json(line)
    except UnfitError as error:
        raise InputError(f"the answer of the service {error}; look at its log") from error
    if not isinstance(document, dict):
        raise InputError("the answer of the service is no table; look at its log")
    return document

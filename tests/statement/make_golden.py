"""The files of ``golden/``: a statement of a run on a tiny model, signed with the key of RFC 8032's second test.

``PYTHONPATH=tests python tests/statement/make_golden.py RUN FORGET``, where RUN is that of ``tests/statement``.
Made once for a predicate type: a form that changes gets a new type, and golden files of its own beside these.
"""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path
from typing import Any, get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rapidun.files import write_json
from rapidun.statement.attest import attest
from rapidun.statement.content import Part, Statement
from rapidun.statement.keys import public_pem
from statement.conftest import REQUEST
from statement.test_envelope_and_keys import SEED

GOLDEN = Path(__file__).parent / "golden"


def keys_of(kind: type[Part]) -> dict[str, list[str]]:
    """The keys of every class that a statement is made of, in order, as its JSON has them."""
    found: dict[str, list[str]] = {}
    waiting: list[Any] = [kind]
    while waiting:
        each = waiting.pop()
        if isinstance(each, type) and issubclass(each, Part):
            if each.__name__ not in found:
                found[each.__name__] = [field.alias or name for name, field in each.model_fields.items()]
                waiting += [field.annotation for field in each.model_fields.values()]
        else:
            waiting += get_args(each)
    return dict(sorted(found.items()))


if __name__ == "__main__":
    run, forget = map(Path, sys.argv[1:])
    key = Ed25519PrivateKey.from_private_bytes(SEED)
    attest(run, REQUEST, key=key, expires=date(2999, 12, 31), forget=forget, out=GOLDEN)
    (GOLDEN / "public.pem").write_bytes(public_pem(key.public_key()))
    write_json(GOLDEN / "keys.json", keys_of(Statement), private=False)

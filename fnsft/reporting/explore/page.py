"""One HTML file: template, style, scripts and packed data, none of it from elsewhere."""

import base64
import gzip
import hashlib
import html
import json
import re
from importlib import resources
from typing import Any

PACKAGE = "fnsft.reporting.explore"
SCRIPTS = (
    *("dom", "data", "table", "charts", "overview", "methods", "layers", "neuron", "search"),
    "router",
)


def page(payload: dict[str, Any], title: str) -> str:
    """Return the page of a payload.

    The data is gzipped JSON in base64: nothing in it can end the element that it stands in. The
    policy lets only this very style and script run, and nothing be fetched.
    """
    style, script = _asset("explore.css"), _script()
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "title": html.escape(title),
        "style": style,
        "script": script,
        "data": _packed(payload),
    }
    # In one pass, so that nothing that is put in is taken for a place.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("explore.html"))


def _script() -> str:
    modules = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{modules}\n}})();\n'


def _packed(payload: dict[str, Any]) -> str:
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _asset(name: str) -> str:
    return resources.files(PACKAGE).joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

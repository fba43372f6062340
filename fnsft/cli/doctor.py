"""``fnsft doctor``: what this machine has, what is missing, and what to do about it."""

import argparse
import json
from typing import TYPE_CHECKING

from fnsft.errors import InputError

if TYPE_CHECKING:
    from fnsft.training.machine import Finding

SETTINGS = None


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the form of the output."""
    parser.add_argument("--json", action="store_true", help="print a JSON list of findings")


def run(arguments: argparse.Namespace, settings: None) -> None:
    """Probe everything, print the findings, and fail when something needed is missing."""
    findings = examine()
    if arguments.json:
        print(json.dumps([vars(finding) for finding in findings], indent=1, ensure_ascii=False))
    else:
        print("\n".join(map(line_of, findings)))
    if lacking := [f.subject for f in findings if f.needed and f.state == "missing"]:
        raise InputError(
            f"expected what a default run needs, found trouble with {', '.join(lacking)}; "
            "see the lines above"
        )


def examine() -> "list[Finding]":
    """Run every probe; none stops the others."""
    from fnsft.training import installation, machine

    probes = {
        "system": machine.system,
        "packages": installation.packages,
        "device": machine.devices,
        "precision": machine.dtypes,
        "quantisation": machine.quantisation,
        "attention": machine.attention,
        "processes": machine.processes,
        "disk": installation.disks,
        "hub": installation.hub,
        "TeX": installation.tex,
        "workflow": installation.profile,
    }
    return [finding for name, probe in probes.items() for finding in machine.probed(name, probe)]


def line_of(finding: "Finding") -> str:
    """Return a finding as text: state, subject, what was found, what to do.

    What is missing and not needed is ``optional``.
    """
    state = "optional" if finding.state == "missing" and not finding.needed else finding.state
    remedy = f"; {finding.remedy}" if finding.remedy else ""
    return f"{state:<8} {finding.subject:<13} {finding.found}{remedy}"

"""Report section: how to reproduce the runs."""

from __future__ import annotations

from collections.abc import Sequence

from dpaat.models import describe_weights
from dpaat.report.blocks import Block, Facts, Heading, Listing, Section
from dpaat.report.view import RunView, window_text


def reproduction_section(runs: Sequence[RunView]) -> Section:
    """Commands, versions, seeds and the configuration of every run."""
    blocks: list[Block] = []
    for run in runs:
        info, evaluation = run.info, run.evaluation or {}
        facts = [("command", f"`{info['command']}`")] if "command" in info else []
        facts += [
            ("data", f"{run.config.data}, fingerprint `{info['fingerprint']}`{window_text(info.get('window'))}"),
            ("seed", f"{run.config.seed}"),
            ("trained with", _versions(info)),
        ]
        if line := describe_weights(info.get("network") or {}):
            facts.append(("began from", line))
        if evaluation:
            seed = evaluation.get("seed", "unknown")
            device = evaluation.get("device", "unknown device")
            facts += [
                ("evaluated with", f"{_versions(evaluation)}, on {device}, seed {seed}"),
                ("checkpoint", f"`{evaluation.get('checkpoint', 'unknown')}`"),
            ]
        summary = "config.yaml, to repeat the run: `dpaat train --config config.yaml --out NEW`"
        blocks += [Heading(run.name), Facts(facts), Listing(summary, run.config_text)]
    return Section("reproduction", "How to reproduce it", blocks)


def _versions(info: dict[str, object]) -> str:
    return f"dpaat {info.get('dpaat_version', 'unknown')}, torch {info.get('torch_version', 'unknown')}"

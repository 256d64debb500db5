"""`hallmark`: the table of commands. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys

import click

from governance.cli.app import LazyGroup, run

COMMANDS = {
    "init": ("governance.cli.init:init", "Make a workspace: settings, keys, policies."),
    "doctor": ("governance.cli.init:doctor", "Check versions, keys, store, engine, offline flags."),
    "config": ("governance.cli.init:config", "Print settings, each with its source."),
    "schema": ("governance.cli.init:schema", "Print the JSON Schema of a spec."),
    "key": ("governance.cli.key:key", "Principals, their keys, and callers of the endpoint."),
    "platform": ("governance.cli.platform:platform", "Who may do what here, and the votes that change it."),
    "data": ("governance.cli.data:data", "Build, list, show, verify and withdraw datasets."),
    "train": ("governance.cli.train:train", "Train a model version from a recipe."),
    "candidate": ("governance.cli.candidate:candidate", "The complete configuration that would serve."),
    "suite": ("governance.cli.suite:suite", "Seal a suite's data for its evaluator; screen it."),
    "eval": ("governance.cli.eval:group", "Measure a candidate on a suite; compare; plan."),
    "gate": ("governance.cli.gate:gate", "Judge a candidate: PASS, FAIL, INVALID, INCONCLUSIVE."),
    "approve": ("governance.cli.release:approve", "Sign an approval of a candidate that passed."),
    "promote": ("governance.cli.release:promote", "Certify a candidate and point an alias at it."),
    "rollback": ("governance.cli.release:rollback", "Point an alias back at a verified release."),
    "revoke": ("governance.cli.release:revoke", "Revoke a certificate."),
    "release": ("governance.cli.release:release", "What each alias points at, since when, and why."),
    "certificate": ("governance.cli.certificate:certificate", "What was certified, what holds, what was revoked."),
    "verify": ("governance.cli.verify:verify", "Check a release, version, dataset or the log."),
    "serve": ("governance.cli.serve:serve", "Run the policy-enforced endpoint."),
    "policy": ("governance.cli.policy:policy", "Check, test, try and activate inference policies."),
    "replay": ("governance.cli.replay:replay", "Decide a past request of the endpoint again, and compare."),
    "recording": ("governance.cli.replay:recording", "Texts that a policy had kept: list, erase."),
    "drift": ("governance.cli.drift:drift", "Compare windows of the decision log."),
    "report": ("governance.cli.report:report", "Dossier of a version; CI renderings of a decision."),
    "lineage": ("governance.cli.lineage:lineage", "What a version was made from; what changed."),
    "export": ("governance.cli.export:export", "Lineage as OpenLineage or W3C PROV; versions to MLflow."),
    "log": ("governance.cli.log:log", "Show and verify the journal."),
    "store": ("governance.cli.store:store", "The projection and the objects: rebuild, collect."),
    "version": ("governance.cli.version:version", "Import and export model folders; list, show."),
    "hold": ("governance.cli.hold:hold", "Legal holds: what they cover is not deleted."),
    "pipeline": ("governance.cli.pipeline:pipeline", "Data, train, evaluate, gate, promote in one walk."),
}


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    invoke_without_command=True,
)
@click.option("--version", is_flag=True, help="Print the version.")
@click.pass_context
def cli(ctx: click.Context, version: bool) -> None:
    """Train models on your own machines, prove them, govern them.

    Exit codes: 0 yes; 1 no (gate failed, denied, tampered, drift); 2 could not decide (usage, bad spec, crash);
    3 not yet (inconclusive, awaiting approval). `gate` exits 2 for INVALID.
    """
    if version:
        from importlib.metadata import version as installed

        click.echo(installed("hallmark-platform"))
    elif ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(cli))


if __name__ == "__main__":
    main()

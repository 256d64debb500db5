"""The frame of every command: lazy groups, the common options, errors to exit codes, output as text or JSON."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from governance.cli.progress import Bars
    from registry.workspace import Workspace


class LazyGroup(click.Group):
    """A group whose commands are imported only when they run. `table` maps a name to (`module:attribute`, help)."""

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in self.table:
            return None
        module, _, attribute = self.table[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their help, importing none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which ones are near."""
        if args and args[0] not in self.table and not args[0].startswith("-"):
            from registry.errors import UnknownName

            raise UnknownName("command", args[0], self.table)
        return super().resolve_command(ctx, args)


class Session:
    """What a command works with: the workspace, who acts, and how results are shown."""

    def __init__(self, workspace: str | None, as_name: str | None, as_json: bool, passphrase_file: str | None) -> None:
        self._place, self.as_name, self.as_json = workspace, as_name, as_json
        self._passphrase_file = passphrase_file
        self._ws: Workspace | None = None
        self._bars: Bars | None = None

    @property
    def root(self) -> Path:
        """Where the workspace is: `--workspace`, `HALLMARK_WORKSPACE`, or the nearest one above. Raises NotFound."""
        from registry.settings import find_root

        place = self._place or os.environ.get("HALLMARK_WORKSPACE")
        return Path(place).resolve() if place else find_root(Path.cwd())

    @property
    def ws(self) -> Workspace:
        """The opened workspace."""
        if self._ws is None:
            from registry.workspace import Workspace

            self._ws = Workspace.open(self.root)
            self._ws.keys.passphrase = self.passphrase
        return self._ws

    @property
    def passphrase(self) -> bytes | None:
        """What opens the acting key, from `--passphrase-file`; None where keys are not encrypted."""
        return Path(self._passphrase_file).read_bytes().rstrip(b"\n") if self._passphrase_file else None

    def actor(self, verb: str, subject: str) -> str:
        """Return the name of who acts, after the platform policy allowed the verb. Raises Refused."""
        from governance.roles import require

        return require(self.ws, verb, subject, self.as_name).name

    @property
    def progress(self) -> Bars:
        """The progress callback: bars on a terminal, a line now and then elsewhere, on stderr."""
        if self._bars is None:
            from governance.cli.progress import Bars

            self._bars = Bars()
        return self._bars

    def emit(self, data: Any, text: str | Iterable[str]) -> None:
        """Print a result: `data` as one JSON document under `--json`, else `text`."""
        self.finish()
        if self.as_json:
            import orjson

            from registry.records import plain

            click.echo(orjson.dumps(plain(data), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
        else:
            click.echo(text if isinstance(text, str) else "\n".join(text))

    def say(self, text: str) -> None:
        """Tell the person at the terminal something that is not the result."""
        self.finish()
        click.echo(text, err=True)

    def finish(self) -> None:
        """Take the progress bars off the screen."""
        if self._bars is not None:
            self._bars.stop()

    def exit(self, code: int) -> NoReturn:
        """End with an exit code."""
        self.finish()
        click.get_current_context().exit(code)


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click callback the common options and, as its first argument, a Session."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
    @click.option("--workspace", metavar="DIR", help="The workspace; default: the nearest hallmark.toml above.")
    @click.option("--as", "as_name", metavar="PRINCIPAL", help="Whose key signs; default from settings.")
    @click.option("--passphrase-file", metavar="FILE", help="Opens the acting key where it is encrypted.")
    @functools.wraps(function)
    def wrapped(
        *args: Any,
        as_json: bool,
        workspace: str | None,
        as_name: str | None,
        passphrase_file: str | None,
        **kwargs: Any,
    ) -> Any:
        session = Session(workspace, as_name, as_json, passphrase_file)
        try:
            return function(session, *args, **kwargs)
        finally:
            session.finish()

    return wrapped


def run(group: click.Group, argv: list[str] | None = None) -> int:
    """Run a command line; return its exit code: 0 yes, 1 no, 2 could not decide, 3 not yet. A crash is 2."""
    from registry.errors import HallmarkError

    try:
        result = group.main(args=argv, prog_name="hallmark", standalone_mode=False)
    except HallmarkError as error:
        _complain(error.message, error.hint)
        return error.exit_code
    except click.ClickException as error:
        _complain(_first_lower(error.format_message()), _usage(error))
        return 2
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted", "run the same command again: finished work is kept")
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 2
    except OSError as error:
        _complain(_first_lower(str(error)), "nothing half-written was kept; mend the cause and run it again")
        return 2
    except Exception as error:  # noqa: BLE001 (a crash must never read as a verdict)
        return _crashed(error)
    return result if isinstance(result, int) else 0


def _crashed(error: Exception) -> int:
    import traceback

    if os.environ.get("HALLMARK_TRACEBACK"):
        traceback.print_exception(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    _complain(
        f"internal error: {type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})",
        "this is a bug in hallmark; HALLMARK_TRACEBACK=1 shows the whole trace",
    )
    return 2


def _complain(message: str, hint: str | None) -> None:
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")


def _usage(error: click.ClickException) -> str | None:
    ctx = getattr(error, "ctx", None)
    return f"see `{ctx.command_path} --help`" if ctx else None

"""`streamer schemas`: list and show the schemas of the topics, and check that every version reads every other."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="The Avro schemas of the topics.", no_args_is_help=True, add_completion=False)


@app.command()
def check() -> None:
    """Check every schema against all its published versions; exits with 1 if one could not read another."""
    from schemas import compatibility

    raise typer.Exit(compatibility.main())


@app.command("list")
def list_() -> None:
    """List the schemas, their published versions and the ids that stand for them where there is no registry."""
    import schemas

    for name in schemas.NAMES:
        versions = ", ".join(f"version {version} = id {schemas.packaged_id(name, version)}" for version in schemas.versions(name))
        typer.echo(f"{name}: {versions}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A name that `list` tells.")],
    version: Annotated[int | None, typer.Option(help="A published version; without it, the working copy.")] = None,
) -> None:
    """Print a schema as it is in its file."""
    import schemas

    try:
        text = schemas.text(name, version)
    except schemas.NoSuchSchema as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(text.rstrip("\n"))

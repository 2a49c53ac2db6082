"""``tierflow config show``: the settings in force."""

from rich.table import Table

from tierflow.console import plain
from tierflow.front import Front


def show(front: Front) -> None:
    """Show every setting; secrets are masked."""
    settings = front.settings
    table = Table("setting", "value")
    for name, value in settings.lines():
        table.add_row(name, plain(value))
    front.console.show(table)
    front.console.emit(settings.model_dump(mode="json"))

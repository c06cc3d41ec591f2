"""`python -m training`, which is also `autocompressor train`."""

import typer

from training.commands.evaluate import print_evaluation
from training.commands.train import train

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
app.callback(invoke_without_command=True)(train)
app.command("evaluate")(print_evaluation)

if __name__ == "__main__":
    app()

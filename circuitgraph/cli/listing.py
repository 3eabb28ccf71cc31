"""`circuitgraph models`, `tasks` and `recipes`: what names there are."""

from __future__ import annotations

from circuitgraph.cli import options


def models(as_json: options.Json = False) -> None:
    """List the packaged models, and say what else can be given as one."""
    from circuitgraph.architectures import supported_model_types
    from circuitgraph.cli.output import print_json, print_table
    from circuitgraph.models import PACKAGED

    families = supported_model_types()
    if as_json:
        listed = [{"name": name, "description": text} for name, text in PACKAGED.items()]
        print_json({"models": listed, "families": families})
        return
    print_table(["model", "what it is"], PACKAGED.items())
    print(f"\nAlso a local folder made with save_pretrained, or a hub name, of a family among: {', '.join(families)}.")


def tasks(as_json: options.Json = False) -> None:
    """List the tasks, with an example each; the answer stands between <predict> and </predict>."""
    from dataclasses import asdict

    from circuitgraph.cli.output import only_json, print_json
    from pruning.tasks import describe_tasks

    with only_json(as_json):
        described = describe_tasks()
    if as_json:
        print_json([asdict(task) for task in described])
        return
    for task in described:
        sizes = ", ".join(f"{n} {split}" for split, n in task.sizes.items()) or "all of its own"
        print(f"{task.name}: {task.description}")
        print(f"    compared by {task.objective}; prompts: {sizes}")
        if task.options:
            print("    --task-option " + ", ".join(f"{name}={value}" for name, value in task.options.items()))
        for line in task.example.splitlines():
            print(f"    {line}")
        print()


def recipes(as_json: options.Json = False) -> None:
    """List the recipes with all their settings."""
    from circuitgraph.cli.output import print_json, print_table
    from pruning.methods.edge_pruning.recipes import RECIPES

    if as_json:
        print_json([recipe.to_dict() for recipe in RECIPES.values()])
        return
    for recipe in RECIPES.values():
        settings = recipe.to_dict()
        print(f"{settings.pop('name')}: {settings.pop('summary')}")
        told = [[name, "the default" if value is None else value] for name, value in settings.items()]
        half = (len(told) + 1) // 2
        pairs = [[*left, *(told[half + i] if half + i < len(told) else ("", ""))] for i, left in enumerate(told[:half])]
        print_table(["    setting", "value", "setting", "value"], [["    " + row[0], *row[1:]] for row in pairs])
        print()

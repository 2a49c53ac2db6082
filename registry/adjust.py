"""Small changes to a catalogue that a command line can ask for, instead of a copied file."""

import re
from collections.abc import Mapping

from schemas.catalogue import Catalogue, Model
from schemas.errors import CatalogueError


def with_model_names(catalogue: Catalogue, names: Mapping[str, str]) -> Catalogue:
    """The catalogue with other models behind its model ids: what ``--model small=llama3.2`` means.

    Each renamed model gets a version made of the new name, since it is another model. Its price and quality stay: they
    are those of the model whose place it takes.

    Args:
        catalogue: With plans that name their models by bare id.
        names: The provider's name of the model, by model id.

    Raises:
        CatalogueError: There is no such model id, or a plan pins the version that would go.
    """
    ids = {model.id for model in catalogue.models}
    if unknown := sorted(names.keys() - ids):
        raise CatalogueError(
            f"no model {', '.join(unknown)} in catalogue {catalogue.name}; it has {', '.join(sorted(ids))}"
        )
    if empty := sorted(name for name, value in names.items() if not value.strip()):
        raise CatalogueError(f"no name given for model {', '.join(empty)}")
    pinned = sorted(
        ref
        for plan in catalogue.plans
        for step in plan.steps
        for ref in step.models
        if "@" in ref and ref.partition("@")[0] in names
    )
    if pinned:
        raise CatalogueError(f"a plan pins {', '.join(pinned)}: name the model by its bare id to put another behind it")
    models = tuple(_renamed(model, names[model.id]) if model.id in names else model for model in catalogue.models)
    return catalogue.model_copy(update={"models": models})


def _renamed(model: Model, name: str) -> Model:
    # A version that tells one name from another and has only the letters that versions may have.
    version = "named-" + re.sub(r"[^A-Za-z0-9._-]", "-", name)[:50]
    return model.model_copy(update={"name": name, "version": version, "lineage": f"in place of {model.name}"})

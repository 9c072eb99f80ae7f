"""Read a recipe: YAML in, overrides on top, a Recipe or an error with file, line and key out."""

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from modelwright.core.errors import ConfigError, did_you_mean
from modelwright.core.files import digest_json
from modelwright.core.recipe import Layout, Recipe

Place = tuple[str | int, ...]


def read(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe in `path` with overrides ("train.seed": 1) on top; the last one wins.

    Raises: ConfigError naming file, line, key and the nearest valid name.
    """
    if not isinstance(overrides, Mapping | None) or not all(
        isinstance(key, str) for key in overrides or ()
    ):
        raise ConfigError(
            f"overrides: {overrides!r} is no mapping from keys to values",
            expected='a mapping such as {"train.seed": 1}',
        )
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot read the recipe {path}: {error.strerror}",
            expected="a YAML file",
            repair="write one with: modelwright init PATH-TO-DATA",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", expected="a YAML file") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(
            f"{path}, line {line}: not valid YAML: {error.problem}",
            expected="keys and values, as in the recipes that `modelwright init` writes",
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{path}: not valid YAML: {error}", expected="plain UTF-8 text"
        ) from error
    except RecursionError as error:
        raise _too_deep(str(path)) from error
    lines: dict[Place, int] = {}
    try:
        value = _plain(node, (), lines, path) if node is not None else None
    except RecursionError as error:
        raise ConfigError(
            f"{path}, line 1: a value that contains itself", expected="plain keys and values"
        ) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds no recipe", expected="a mapping with task: and data:")
    places = {place: f"{path}, line {line}" for place, line in lines.items()}
    for key, item in (overrides or {}).items():
        place = tuple(key.split("."))
        _set(value, place, item, key)
        places = {at: text for at, text in places.items() if at[: len(place)] != place}
        places[place] = f"override {key}={json.dumps(item, default=str)}"
    plain = (c if (c.isascii() and c.isalnum()) or c in "._-" else "-" for c in path.stem)
    value.setdefault("name", "".join(plain))
    try:
        return Recipe.model_validate(value)
    except ValidationError as error:
        raise _explain(error, places, str(path)) from None


def parse_overrides(words: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """`key.sub=value` words; values are read as YAML.

    >>> parse_overrides(["train.seed=1", "goals.size_mb=<= 0.5"])
    {'train.seed': 1, 'goals.size_mb': '<= 0.5'}
    """
    result: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"cannot read the override {word!r}", expected="key.sub=value, as in train.seed=1"
            )
        result.pop(key, None)  # or the last one keeps the first one's place
        try:
            result[key] = yaml.safe_load(text) if text else ""
        except (yaml.YAMLError, ValueError):
            result[key] = text  # "goals.size_mb=>= 1": not YAML, but what the user means
        except RecursionError as error:
            raise _too_deep(f"override {key}") from error
    return result


def _too_deep(where: str) -> ConfigError:
    return ConfigError(
        f"{where}: lists in lists or keys below keys, hundreds of them",
        expected="a few levels, as in the recipes that `modelwright init` writes",
        repair="take out the brackets or keys that are too many",
    )


def resolved_text(recipe: Recipe) -> str:
    """The recipe with every key written out, as YAML that reads back to the same recipe."""
    value = recipe.model_dump(mode="json", exclude_unset=False)
    value["data"]["clean"] = [_bare(step) for step in value["data"]["clean"]]
    value["train"]["augment"] = [_bare(step) for step in value["train"]["augment"]]
    value["compress"]["steps"] = [_bare(step) for step in value["compress"]["steps"]]
    value["budget"] = _bare(value["budget"])
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


# keys of which a recipe has one: an override of it takes the other's place
OTHERS = {
    (section, one): other
    for section, *keys in (
        ("budget", "train_minutes", "train_steps"),
        ("train", "checkpoint_minutes", "checkpoint_steps"),
    )
    for one, other in (keys, keys[::-1])
}

# keys of train that a run goes on with others of: on what it trains, how that is saved, watched and
# logged; a training taken up with others is the same one
MAY_CHANGE = (
    "layout", "device", "checkpoint_minutes", "checkpoint_steps", "keep_checkpoints",
    "grace_seconds", "stuck_minutes", "loggers", "mlflow_uri",
)  # fmt: skip


# sections that nothing up to the trained model reads, but the choice among candidates
BEHIND_TRAINING = ("goals", "target", "compress", "decode")


def digest(recipe: Recipe, *, training: bool = False) -> str:
    """Hex SHA-256 of the resolved recipe, but for what may change: equal ones are one run's.

    Args:
        training: of what leads to the trained model alone.
    """
    without: dict[str, Any] = {"train": set(MAY_CHANGE)}
    if training:
        without |= dict.fromkeys(("name", *BEHIND_TRAINING), True)
    value = recipe.model_dump(mode="json", exclude=without)
    if not training:  # of goals in another order another one may decide
        value["decides"] = recipe.measures[0]
    return digest_json(value)


def differences(own: Recipe, other: Recipe) -> list[str]:
    """What a recipe has of the sections behind the training where another has something else, as
    overrides.

    >>> one = Recipe.model_validate({"task": "detection", "data": {"source": "x"}})
    >>> differences(one.model_copy(update={"goals": {"size_mb": ("<= 1",)}}), one)
    ['goals={"size_mb": ["<= 1"]}']
    """
    values, others = (one.model_dump(mode="json") for one in (own, other))
    values["compress"]["steps"] = [_bare(step) for step in values["compress"]["steps"]]
    others["compress"]["steps"] = [_bare(step) for step in others["compress"]["steps"]]
    return [
        f"{name}={json.dumps(values[name], ensure_ascii=False)}"
        for name in BEHIND_TRAINING
        if values[name] != others[name]
        or (name == "goals" and own.measures[0] != other.measures[0])
    ]


def changes(before: Recipe, now: Recipe) -> dict[str, str]:
    """What differs of what may change, by key: what it is and was, in words.

    >>> one = Recipe.model_validate({"task": "detection", "data": {"source": "x"}})
    >>> layout = one.train.model_copy(update={"layout": Layout(tensor=2)})
    >>> changes(one, one.model_copy(update={"train": layout}))
    {'layout': 'train.layout is tensor 2 now, it was auto'}
    """
    found = {}
    for name in MAY_CHANGE:
        is_now, was = (_in_words(name, one) for one in (now, before))
        if is_now != was:
            found[name] = f"train.{name} is {is_now} now, it was {was}"
    return found


def _in_words(name: str, recipe: Recipe) -> str:
    value = getattr(recipe.train, name)
    if isinstance(value, Layout):
        return value.name or "one process"
    if not value:
        return "auto" if name == "layout" else "none"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def schema() -> dict[str, Any]:
    """The JSON schema of a recipe, short forms included."""
    result = Recipe.model_json_schema()
    properties = result["properties"]
    properties["model"] = {"anyOf": [{"const": "auto"}, properties["model"]]}
    properties["compress"] = {
        "anyOf": [
            {"enum": ["auto", "none"]},
            {"type": "array", "items": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Step"}]}},
            properties["compress"],
        ]
    }
    properties["goals"]["additionalProperties"] = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_standard(result)}


# pydantic leaves the bounds of a quantity, which is a number or a text, under its own words
STANDARD = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}


def _standard(node: Any) -> Any:
    """The schema with the standard's words for bounds; they bind numbers and pass over texts."""
    if isinstance(node, dict):
        return {STANDARD.get(name, name): _standard(value) for name, value in node.items()}
    return [_standard(item) for item in node] if isinstance(node, list) else node


def _bare(step: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in step.items() if value is not None}


def _plain(node: yaml.Node, place: Place, lines: dict[Place, int], path: Path) -> Any:
    """A YAML node as plain values; records the line of every key and refuses repeated keys."""
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in result:
                raise ConfigError(
                    f"{path}, line {line}: the key {key!r} stands here a second time",
                    expected="each key once",
                    repair=f"keep this line or line {lines[(*place, key)]}",
                )
            lines[(*place, key)] = line
            result[key] = _plain(value_node, (*place, key), lines, path)
        return result
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            lines[(*place, index)] = item.start_mark.line + 1
            items.append(_plain(item, (*place, index), lines, path))
        return items
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(
            f"{path}, line {node.start_mark.line + 1}: cannot read {node.value!r} "
            f"as {node.tag.rsplit(':', 1)[-1]}",
            expected="plain numbers, words and lists, without tags",
        ) from error


def _set(value: dict[str, Any], place: tuple[str, ...], item: Any, key: str) -> None:
    for name in place[:-1]:
        below = value.get(name)
        if below is None or below == "auto":  # "model: auto" gives way to model.family=cnn
            below = value[name] = {}
        if not isinstance(below, dict):
            raise ConfigError(
                f"override {key!r}: {name!r} is not a section of this recipe",
                expected=f"{name}.… to be a mapping, but it is {below!r}",
            )
        value = below
    if place in OTHERS and item is not None:
        value.pop(OTHERS[place], None)
    value[place[-1]] = item


def _explain(error: ValidationError, places: Mapping[Place, str], path: str) -> ConfigError:
    """The first problem in the words of the recipe."""
    details = error.errors()
    details.sort(key=lambda item: item["type"] != "extra_forbidden")  # typos explain the rest
    detail = details[0]
    place = detail["loc"]
    if place == ("goals",) and detail["type"] == "value_error":
        name, _, text = detail["msg"].removeprefix("Value error, ").partition(": ")
        if text and name.replace("_", "").isalnum():
            place, detail["msg"] = ("goals", name), text
    if place == () and detail["type"] == "value_error":  # of two sections: the text names the key
        name, _, text = detail["msg"].removeprefix("Value error, ").partition(": ")
        place, detail["msg"] = tuple(name.split(".")), text
    if detail["type"] == "unread_key":
        place = tuple(detail["ctx"]["key"].split("."))
        detail["msg"] = detail["msg"].partition(": ")[2]
    # a list of steps is read as its long form; the lines are those of the list
    if place[:2] == ("compress", "steps") and ("compress", "steps") not in places:
        places = {
            ("compress", "steps", *at[1:]) if at[:1] == ("compress",) and len(at) > 1 else at: text
            for at, text in places.items()
        }
    at_or_above = (places[place[:n]] for n in range(len(place), 0, -1) if place[:n] in places)
    below = (text for at, text in places.items() if at[: len(place)] == place)
    where = next(at_or_above, next(below, path))
    key = ".".join(str(part) for part in place)
    more = f" ({len(details) - 1} more problems)" if len(details) > 1 else ""
    if detail["type"] == "extra_forbidden":
        known = list(_keys_at(place[:-1]))
        return ConfigError(
            f"{where}: unknown key {key!r}{more}", expected=did_you_mean(str(place[-1]), known)
        )
    if detail["type"] == "missing":
        return ConfigError(f"{where}: the key {key!r} is missing{more}", expected=_hint(place))
    expected, repair = _hint(place), ""
    if detail["type"] == "unread_key":
        repair = f"leave {'.'.join(map(str, place))} out"
    if detail["type"] == "model_type" and (section := _section_at(place)) is not None:
        expected = f"keys below it, of: {', '.join(section.model_fields)}"
        repair = _as_section(section, place, detail["input"])
    return ConfigError(
        f"{where}: {key}: {_message(detail)}{more}", expected=expected, repair=repair
    )


# pydantic speaks of dictionaries, tuples and instances; who writes a recipe does not
WANTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("model_type", "dict_type"), "a section with keys of its own"),
    "tuple_type": "a list",
    "string_type": "a text",
}


def _message(detail: ErrorDetails) -> str:
    kind, text = detail["type"], detail["msg"].removeprefix("Value error, ")
    if kind in ("value_error", "missing", "unread_key"):
        return text
    text = f"should be {WANTED[kind]}" if kind in WANTED else text.removeprefix("Input ")
    got = "nothing" if detail["input"] is None else repr(detail["input"])
    return f"{text[0].lower()}{text[1:]}, got {got}"


def _as_section(section: type[BaseModel], place: Place, value: Any) -> str:
    """The line that puts a bare value under the first key of the section that takes it."""
    for name in section.model_fields if value is not None else ():
        with contextlib.suppress(ValidationError):
            section.model_validate({name: value})
            text = yaml.safe_dump({name: value}, default_flow_style=True, allow_unicode=True)
            if isinstance(place[-1], int):
                return f"write - {text.strip()}"
            word = shlex.quote(f"{'.'.join(map(str, place))}.{name}={value}")
            return f"write {place[-1]}: {text.strip()} (as an override: {word})"
    return ""


def _keys_at(place: Place) -> Iterator[str]:
    section = _section_at(place)
    if section is not None:
        yield from section.model_fields


def _section_at(place: Place) -> type[BaseModel] | None:
    section: type[BaseModel] | None = Recipe
    for part in place:
        if isinstance(part, int) or section is None:
            continue
        field = section.model_fields.get(part)
        section = _section_in(field.annotation) if field is not None else None
    return section


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(
        (found for part in getattr(annotation, "__args__", ()) if (found := _section_in(part))),
        None,
    )


def _hint(place: Place) -> str:
    section = _section_at(place[:-1])
    field = section.model_fields.get(str(place[-1])) if section is not None else None
    return (field.description or "") if field is not None else ""

import json
from pathlib import Path

import pytest

from tunetrail.config import EvaluationConfig, GenerationConfig
from tunetrail.config.answer_checks import read_json_schema, read_pattern
from tunetrail.errors import ConfigError

SCHEMA = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]+$"},
        "$ref": {"$ref": "#/$defs/id"},
    },
    "$defs": {"id": {"type": "integer"}},
}


@pytest.mark.parametrize("in_file", [True, False])
def test_read_json_schema_takes_json_or_a_file(tmp_path: Path, in_file: bool) -> None:
    text = json.dumps(SCHEMA)
    if in_file:
        (tmp_path / "schema.json").write_text(text)
        text = str(tmp_path / "schema.json")

    validator = read_json_schema(text)

    assert validator.is_valid({"name": "ada", "$ref": 1})
    assert not validator.is_valid({"name": "Ada"})
    assert not validator.is_valid({"name": "ada", "$ref": "one"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "missing.json",
            r"must be a readable file, or JSON that begins with \{, got 'missing.json'",
        ),
        ("a\0b", "must be a readable file"),
        ("{", "must be a JSON schema, got '{'. Correct it: JSONDecodeError"),
        ('{"type": "objekt"}', r"Correct \$.type: 'objekt' is not valid"),
        ('{"pattern": "("}', r"Correct \$.pattern: '\(' is not a 'regex'"),
        ('{"$ref": "https://example.org/a.json"}', r"\$ref must stay within the schema \(#"),
        ('{"items": [{"$ref": "file:///etc/passwd"}]}', r"JSON schema"),
        ('{"properties": {"a": {"$ref": "#/$defs/b"}}}', "PointerToNowhere"),
        ('{"$ref": "#"}', "RecursionError"),
    ],
)
def test_what_is_no_json_schema_is_refused_when_the_settings_are_read(
    text: str, message: str
) -> None:
    with pytest.raises(
        ConfigError, match=f"^evaluation.generation.json_schema .*{message}"
    ) as caught:
        GenerationConfig(json_schema=text)
    assert "\n" not in str(caught.value)


def test_a_schema_file_must_hold_an_object(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text("[1]")
    with pytest.raises(ConfigError, match="it must be an object"):
        read_json_schema(str(tmp_path / "schema.json"))


def test_a_pattern_must_be_a_regular_expression() -> None:
    assert read_pattern(r"#### (\S+)").groups == 1
    with pytest.raises(
        ConfigError,
        match=r"^evaluation.generation.pattern must be a regular expression, got '\('. Correct it: "
        "missing \\), unterminated subpattern at position 0.$",
    ):
        EvaluationConfig(generation=GenerationConfig(pattern="("))


@pytest.mark.parametrize(("name", "value"), [("rows", -1), ("max_new_tokens", 0)])
def test_sizes_are_checked(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"evaluation.generation.{name} must be at least"):
        GenerationConfig(**{name: value})  # type: ignore[arg-type]

"""How sources are written: a LoRA with its strength, a blend with its shares."""

import pytest

from wuerstchen.checkpoints.notation import parse_blend, parse_lora


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.8", ("a.safetensors", 0.8)),
        ("a.safetensors:-1", ("a.safetensors", -1.0)),
        ("a.safetensors:+.5", ("a.safetensors", 0.5)),
        ("a.safetensors:1e-1", ("a.safetensors", 0.1)),
        ("owner/name:2", ("owner/name", 2.0)),
        ("C:\\loras\\a.safetensors", ("C:\\loras\\a.safetensors", 1.0)),
        ("C:\\loras\\a.safetensors:0.8", ("C:\\loras\\a.safetensors", 0.8)),
        ("C:/loras/a.safetensors", ("C:/loras/a.safetensors", 1.0)),
        ("a:b.safetensors", ("a:b.safetensors", 1.0)),
        ("a:b:0.5", ("a:b", 0.5)),
        ("style:2:1", ("style:2", 1.0)),
        ("a:", ("a:", 1.0)),
        ("a:nan", ("a:nan", 1.0)),
        ("a:1_0", ("a:1_0", 1.0)),
    ],
)
def test_only_a_number_behind_the_last_colon_is_a_strength(
    text: str, expected: tuple[str, float]
) -> None:
    assert parse_lora(text) == expected


@pytest.mark.parametrize("text", ["", " ", ":0.5", "a:1e999"])
def test_a_lora_without_a_source_or_a_finite_strength_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be SOURCE or SOURCE:STRENGTH, .*, got"):
        parse_lora(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a*0.5+b*0.5", [("a", 0.5), ("b", 0.5)]),
        ("a*1.5+b*-0.5", [("a", 1.5), ("b", -0.5)]),
        ("a*-1+b*+2", [("a", -1.0), ("b", 2.0)]),
        (" a * 0.5 + b * .5 ", [("a", 0.5), ("b", 0.5)]),
        (" a *0.5 + b *.5 ", [("a", 0.5), ("b", 0.5)]),
        ("a+b.bin*5e-1+c/d*5.e-1", [("a+b.bin", 0.5), ("c/d", 0.5)]),
        ("a*1e+0+b*0", [("a", 1.0), ("b", 0.0)]),
        ("C:\\a b\\*1", [("C:\\a b\\", 1.0)]),
        ("a*.333+b*.333+c*.333", [("a", 0.333), ("b", 0.333), ("c", 0.333)]),
        ("a*1", [("a", 1.0)]),
        ("owner/name", None),
        ("a*b", None),
        ("a*0.5b", None),
        ("a+b", None),
        ("", None),
    ],
)
def test_sources_and_shares_are_read(text: str, expected: list[tuple[str, float]] | None) -> None:
    assert parse_blend(text) == expected


@pytest.mark.parametrize("text", ["a*0.5+b", "*0.5+b*0.5", "a*0.5+b*0.5+", "a*0.5++b", " *1"])
def test_a_part_without_source_or_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be SOURCE\*SHARE\+SOURCE\*SHARE, .*, got '"):
        parse_blend(text)


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ("a*0.5+b*0.6", "1.1"),
        ("a+b*0.5", "0.5"),
        ("a*0.5+b*0.498", "0.998"),
        ("a*1+b*-1", "0"),
        ("a*1e999+b*1", "inf"),
        ("a*1e999+b*-1e999", "nan"),
    ],
)
def test_shares_that_do_not_add_up_to_1_are_refused_with_their_sum(text: str, total: str) -> None:
    with pytest.raises(ValueError, match=f"must add up to 1, got {total} in"):
        parse_blend(text)

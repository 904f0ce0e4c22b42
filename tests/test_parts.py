import dataclasses
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tripletomics import parts

ENCODERS: dict[str, type] = {}


@parts.register("mlp", ENCODERS)
@dataclasses.dataclass
class MLP:
    layers: tuple[int, ...] = (256, 128)
    dropout: float = 0.1
    depth: int = 2
    norm: bool = True
    activation: str = "gelu"
    width: int | None = None
    rate: float | str = "auto"
    scale: float = dataclasses.field(default_factory=lambda: 1.5)
    ways: ClassVar[int] = 1


@parts.register("linear", ENCODERS)
@dataclasses.dataclass
class Linear:
    pass


@parts.register("table", ENCODERS)
@dataclasses.dataclass
class Table:
    rows: int
    columns: int = 3


def make(text):
    return parts.make(text, ENCODERS, "encoder")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mlp", MLP()),
        (" mlp ", MLP()),
        ("mlp:dropout=1", MLP(dropout=1.0)),
        ("mlp:dropout=1e-3,depth=3", MLP(dropout=0.001, depth=3)),
        ("mlp: dropout = 0.5 , norm = False", MLP(dropout=0.5, norm=False)),
        ("mlp:norm=true,activation=relu", MLP(activation="relu")),
        ("mlp:layers=64", MLP(layers=(64,))),
        ("mlp:layers=512-64-8", MLP(layers=(512, 64, 8))),
        ("mlp:layers=", MLP(layers=())),
        ("mlp:width=none", MLP()),
        ("mlp:width=8", MLP(width=8)),
        ("mlp:rate=0.5", MLP(rate=0.5)),
        ("mlp:rate=slow", MLP(rate="slow")),
        ("mlp:scale=2", MLP(scale=2.0)),
        ("linear", Linear()),
        ("table:rows=4", Table(4)),
    ],
)
def test_make(text, expected):
    made = make(text)
    assert made == expected
    assert [type(value) for value in vars(made).values()] == [type(value) for value in vars(expected).values()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mpl", "encoder='mpl' is not known. Did you mean 'mlp'? Known: linear, mlp, table."),
        ("MLP:depth=3", "encoder='MLP' is not known. Did you mean 'mlp'? Known: linear, mlp, table."),
        ("zzz", "encoder='zzz' is not known. Known: linear, mlp, table."),
        ("", "encoder='' is not known. Known: linear, mlp, table."),
        (
            "mlp:dropuot=0.1",
            "mlp has no setting 'dropuot'. Did you mean 'dropout'? "
            "Settings: layers, dropout, depth, norm, activation, width, rate, scale.",
        ),
        ("linear:depth=1", "linear has no setting 'depth'. Settings: none."),
        ("mlp:dropout=abc", "mlp: dropout='abc' is not a number."),
        ("mlp:dropout=", "mlp: dropout='' is not a number."),
        ("mlp:depth=2.5", "mlp: depth='2.5' is not a whole number."),
        ("mlp:norm=yes", "mlp: norm='yes' is not true or false."),
        ("mlp:width=wide", "mlp: width='wide' is not none or a whole number."),
        ("mlp:layers=a-b", "mlp: layers='a-b' is not whole numbers joined by '-' (such as 256-128)."),
        ("mlp:depth", "encoder='mlp:depth' cannot be read: write settings as mlp:key=value,key=value."),
        ("mlp:", "encoder='mlp:' cannot be read: write settings as mlp:key=value,key=value."),
        ("mlp:depth=1,", "encoder='mlp:depth=1,' cannot be read: write settings as mlp:key=value,key=value."),
        ("mlp:depth=1,depth=2", "mlp: depth is given twice."),
        ("table", "table needs a value for rows: write table:rows=value."),
    ],
)
def test_make_says_what_is_wrong(text, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        make(text)
    assert str(error.value) == message


def test_spec_names_only_what_differs():
    assert parts.spec(MLP()) == "mlp"
    assert parts.spec(Linear()) == "linear"
    assert parts.spec(Table(3)) == "table:rows=3"
    part = MLP(layers=(64, 8), dropout=0.25, norm=False, width=7)
    assert parts.spec(part) == "mlp:layers=64-8,dropout=0.25,norm=false,width=7"


def test_defaults_are_the_text_that_make_reads():
    assert parts.defaults(MLP) == {
        "layers": "256-128", "dropout": "0.1", "depth": "2", "norm": "true", "activation": "gelu", "width": "none",
        "rate": "auto", "scale": "1.5",
    }  # fmt: skip
    assert make("mlp:" + ",".join(f"{name}={text}" for name, text in parts.defaults(MLP).items())) == MLP()
    assert parts.defaults(Linear) == {}
    assert parts.defaults(Table) == {"rows": None, "columns": "3"}  # rows has no default


def test_find():
    assert parts.find("mlp", ENCODERS, "encoder") is MLP
    with pytest.raises(ValueError, match=r"^encoder='mlp:depth=3' is not known\. Known: linear, mlp, table\.$"):
        parts.find("mlp:depth=3", ENCODERS, "encoder")


@given(
    st.builds(
        MLP,
        layers=st.lists(st.integers(0, 4096)).map(tuple),
        dropout=st.floats(allow_nan=False),
        depth=st.integers(),
        norm=st.booleans(),
        activation=st.from_regex(r"[a-z][a-z_.]*", fullmatch=True),
        width=st.none() | st.integers(),
        rate=st.floats(allow_nan=False) | st.sampled_from(["auto", "slow"]),
        scale=st.floats(allow_nan=False),
    )
)
def test_spec_round_trip(part):
    assert make(parts.spec(part)) == part


@pytest.mark.parametrize("word", ["a,b", "a=b", "a+b", "2*a", " a", "a:b"])
def test_spec_refuses_what_text_cannot_express(word):
    with pytest.raises(ValueError, match=r"^mlp: activation=.* cannot be written as text\.$"):
        parts.spec(MLP(activation=word))


def test_spec_refuses_a_word_that_reads_as_a_number():
    with pytest.raises(ValueError, match=r"^mlp: rate='3' cannot be written as text\.$"):
        parts.spec(MLP(rate="3"))


def test_spec_wants_a_registered_class():
    class Deep(MLP):
        pass

    with pytest.raises(ValueError, match=r"Deep is not registered"):
        parts.spec(Deep())


def test_register():
    registry: dict[str, type] = {}

    def define():
        @parts.register("one", registry)
        @dataclasses.dataclass
        class One:
            x: int = 0

        return One

    first, again = define(), define()  # running a notebook cell twice
    assert first.name == "one"
    assert registry == {"one": again}
    with pytest.raises(ValueError, match=r"^'one' already names .*One: choose another name\.$"):
        parts.register("one", registry)(MLP)
    with pytest.raises(ValueError, match=r"^'a:b' cannot name a part"):
        parts.register("a:b", registry)(MLP)
    with pytest.raises(TypeError, match="int is not a dataclass"):
        parts.register("int", registry)(int)


def test_did_you_mean():
    assert parts.did_you_mean("celltype", ["batch", "cell_type"]) == " Did you mean 'cell_type'?"
    assert parts.did_you_mean("CELL_TYPE", ["batch", "Cell_Type"]) == " Did you mean 'Cell_Type'?"
    assert parts.did_you_mean("xyz", ["batch", "cell_type"]) == ""
    assert parts.did_you_mean("xyz", []) == ""
    assert parts.did_you_mean(12, [11, 120]) == " Did you mean '120'?"


@pytest.mark.parametrize(
    ("interval", "value", "fits"),
    [
        ("[0, inf)", 0, True),
        ("[0, inf)", -0.1, False),
        ("[0, inf)", float("inf"), False),
        ("[0, inf)", float("nan"), False),
        ("(0, 1]", 0, False),
        ("(0, 1]", 1, True),
        ("[0, 1]", "0.5", False),
        ("[0, 1]", True, False),
        ("[0, 1]", None, False),
    ],
)
def test_check_number(interval, value, fits):
    part = MLP(dropout=value)
    if fits:
        parts.check_number(part, "dropout", interval)
    else:
        with pytest.raises(ValueError) as error:  # noqa: PT011
            parts.check_number(part, "dropout", interval)
        assert str(error.value) == f"mlp: dropout={value!r} is not a number in {interval}."


def test_check_whole_number_word_and_flag():
    parts.check_number(MLP(depth=2), "depth", "[1, inf)", whole=True)
    with pytest.raises(ValueError, match=r"^mlp: depth=2\.5 is not a whole number in \[1, inf\)\.$"):
        parts.check_number(MLP(depth=2.5), "depth", "[1, inf)", whole=True)
    parts.check_word(MLP(), "activation", ["gelu", "relu"])
    with pytest.raises(
        ValueError, match=r"^mlp: activation='rleu' is not known\. Did you mean 'relu'\? Allowed: gelu, relu\.$"
    ):
        parts.check_word(MLP(activation="rleu"), "activation", ["gelu", "relu"])
    parts.check_flag(MLP(), "norm")
    with pytest.raises(ValueError, match=r"^mlp: norm='false' is not True or False\.$"):
        parts.check_flag(MLP(norm="false"), "norm")

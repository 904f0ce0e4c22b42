"""The settings of every kind of part: what is read and written again, and what is refused in words."""

import math

import pytest
from samples import refusal

from tripletomics import augment, geometry, losses, networks, parts
from tripletomics.losses import Sum, Triplet
from tripletomics.losses.batch import NCA, SupCon
from tripletomics.losses.centers import HardTriple
from tripletomics.losses.proxies import ArcFace, ProxyNCA

MAKE = {"loss": losses.make, "augment": augment.make, "encoder": networks.make}
SPEC = {"loss": losses.spec, "augment": augment.spec, "encoder": parts.spec}
WRITTEN = {
    "loss": [
        *losses.names(), "nca:scale=2.0", "supcon:temperature=0.2", "infonce:temperature=0.2,neighbours=5",
        "simclr:temperature=0.1,neighbours=15", "moco:queue=64,momentum=0.5,temperature=0.1,neighbours=3",
        "byol:momentum=0.9", "vicreg:invariance=10.0,variance=5.0,covariance=2.0", "barlow_twins:redundancy=0.1",
        "triplet + 0.5*simclr:temperature=0.2",
    ],
    "augment": [
        "mask", "thin", "noise", "mixup", "censor", "mask:p=0.2", "mask:p=0.0", "thin:p=0.2",
        "noise:sd=0.1,expressed=false", "mixup:share=0.3", "censor:p=0.4", "thin + mask:p=0.3",
        "mixup + noise:expressed=false + censor", "thin:p=0.9 + mask:p=0.2",
    ],
    "encoder": ["mlp", "mlp:hidden=64", "mlp:hidden=512-256-128"],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in WRITTEN.items() for text in texts])
def test_what_is_written_is_read_again(kind, text):
    part = MAKE[kind](text)
    assert SPEC[kind](part) == text
    assert SPEC[kind](MAKE[kind](SPEC[kind](part))) == text
    if kind == "augment":
        assert augment.make(text) == part
        assert augment.make(part) is part


OUTSIDE = {
    "(0, inf)": "nca:scale=0 nca:scale=-1 nca:scale=inf supcon:temperature=0 supcon:temperature=nan "
    "contrastive:margin=0 normsoftmax:temperature=0 arcface:scale=-1 cosface:scale=inf softtriple:gamma=0 "
    "vicreg:invariance=0 vicreg:variance=0 vicreg:covariance=0 barlow_twins:redundancy=0 noise:sd=0 noise:sd=inf "
    + " ".join(f"{name}:temperature={t}" for name in ("infonce", "simclr", "moco") for t in ("0", "-1", "inf")),
    "(0, inf]": "triplet:p=0",
    "[0, inf)": "triplet:margin=-1 triplet:margin=inf triplet:margin=nan quadruplet:margin2=-1 softtriple:tau=-1",
    "[0, 1]": "triplet:start=2 center:alpha=2 clip:same_type=2",
    "[0, 1)": "moco:momentum=1 byol:momentum=1 byol:momentum=-0.1 mask:p=1 mask:p=-0.1",
    "(0, 1]": "thin:p=0 thin:p=1.1 mixup:share=0 mixup:share=1.5",
    "(0, 0.5]": "censor:p=0 censor:p=0.6",
    "(0, 80]": "angular:alpha=90",
    "[0, 1.5]": "arcface:margin=28.6 cosface:margin=-0.1 hardtriple:margin=nan",
}
WHOLE_OUTSIDE = {
    "[1, inf)": "triplet:every=0 hierarchical_triplet:levels=0 softtriple:centers=0 moco:queue=0",
    "[0, 15]": " ".join(f"{name}:neighbours={n}" for name in ("infonce", "simclr", "moco") for n in (-1, 16)),
}


def make(text):
    """Make a part of the kind that has this name."""
    name = text.split(":")[0]
    return (losses if name in losses.names() else augment).make(text)


@pytest.mark.parametrize("whole", [False, True])
def test_numbers_outside_their_interval_are_refused(whole):
    for interval, texts in (WHOLE_OUTSIDE if whole else OUTSIDE).items():
        for text in texts.split():
            name, key, number = text.replace("=", ":").split(":")
            kind, value = ("a whole number", number) if whole else ("a number", float(number))
            assert refusal(make, text) == f"ValueError: {name}: {key}={value} is not {kind} in {interval}."


LOSSES = ", ".join(losses.names())
DISTANCES = ", ".join(geometry.DISTANCES)
SUM = "write a sum as 'softmax + 0.003*center', each weight a number in (0, inf)."
REFUSED = {
    "tripelt": f"loss='tripelt' is not known. Did you mean 'triplet'? Known: {LOSSES}.",
    "simclir": f"loss='simclir' is not known. Did you mean 'simclr'? Known: {LOSSES}.",
    "softmax + 2*centre": f"loss='centre' is not known. Did you mean 'center'? Known: {LOSSES}.",
    "triplet:margn=0.3": "triplet has no setting 'margn'. Did you mean 'margin'? "
    "Settings: margin, distance, p, mining, soft, reduction, lo, hi, start, end, pacing, shuffled, every.",
    "softmax:margin=1": "softmax has no setting 'margin'. Settings: none.",
    "adacos:scale=3": "adacos has no setting 'scale'. Settings: none.",
    "nca:temperature=1": "nca has no setting 'temperature'. Settings: scale.",
    "clip:temperature=1": "clip has no setting 'temperature'. Settings: same_type.",
    "simsiam:momentum=0.9": "simsiam has no setting 'momentum'. Settings: none.",
    "triplet:margin=wide": "triplet: margin='wide' is not a number.",
    "supcon:temperature=cold": "supcon: temperature='cold' is not a number.",
    "infonce:neighbours=1.5": "infonce: neighbours='1.5' is not a whole number.",
    "triplet:soft=1": "triplet: soft='1' is not true or false.",
    "triplet:lo=0.5": "triplet: lo=0.5 is not below hi=0.0.",
    "triplet:pacing=linar": "triplet: pacing='linar' is not known. Did you mean 'linear'? "
    "Allowed: linear, root, exponential, step.",
    "triplet:mining=offline,distance=mahalanobis": "triplet: distance='mahalanobis' needs whole batches, which "
    "mining='offline' does not use.",
    "ranknet:distance=l2": f"ranknet: distance='l2' is not known. Allowed: {DISTANCES}.",
    "triplet:mining=smihard": "triplet: mining='smihard' is not known. Did you mean 'semihard'? "
    "Allowed: all, hard, semihard, easy_positive, band, curriculum, offline.",
    "triplet:distance=cosin": f"triplet: distance='cosin' is not known. Did you mean 'cosine'? Allowed: {DISTANCES}.",
    "triplet:reduction=mean": "triplet: reduction='mean' is not known. Allowed: nonzero, all, sum.",
    **{
        f"{weight}*{rest}": f"loss='{weight}*{rest}': '{weight}' is not a weight: {SUM}"
        for weight, rest in [(weight, "softmax") for weight in ("0", "-1", "nan", "inf", "")]
        + [("softmax - 2", "center")]
    },
    "softmax + center*0.003": f"loss='softmax + center*0.003': 'center' is not a weight: {SUM}",
    **{
        text: f"loss={text!r} has a term without a loss: {SUM}"
        for text in ("", "softmax +", "+ softmax", "softmax + 2*")
    },
}
REFUSED_AUGMENT = {
    "noise:expressed=2": "noise: expressed='2' is not true or false.",
    "mask:q=1": "mask has no setting 'q'. Settings: p.",
    "censor:q=0.2": "censor has no setting 'q'. Settings: p.",
    "musk": "augment='musk' is not known. Did you mean 'mask'? Known: censor, mask, mixup, noise, thin.",
    "thim": "augment='thim' is not known. Did you mean 'thin'? Known: censor, mask, mixup, noise, thin.",
    "mask + thim": "augment='thim' is not known. Did you mean 'thin'? Known: censor, mask, mixup, noise, thin.",
    "thin + mask:p=2": "mask: p=2.0 is not a number in [0, 1).",
    "mask +": "augment='' is not known. Known: censor, mask, mixup, noise, thin.",
    "": "augment='' is not known. Known: censor, mask, mixup, noise, thin.",
}
REFUSED_ENCODER = {
    "mlp:hidden=0": "mlp: hidden=(0,) is not a list of widths of at least 1.",
    "mlp:width=3": "mlp has no setting 'width'. Settings: hidden.",
    "mpl": "encoder='mpl' is not known. Did you mean 'mlp'? Known: mlp.",
}


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (kind, *item)
        for kind, refused in (("loss", REFUSED), ("augment", REFUSED_AUGMENT), ("encoder", REFUSED_ENCODER))
        for item in refused.items()
    ],
)
def test_settings_that_cannot_be_used_are_refused(kind, text, message):
    assert refusal(MAKE[kind], text) == f"ValueError: {message}"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NCA(scale="2"), "nca: scale='2' is not a number in (0, inf)."),
        (lambda: SupCon(temperature=True), "supcon: temperature=True is not a number in (0, inf)."),
        (lambda: ArcFace(easy="no"), "arcface: easy='no' is not True or False."),
        (lambda: ProxyNCA(plus=1), "proxynca: plus=1 is not True or False."),
        (lambda: HardTriple(centers=2.5), "hardtriple: centers=2.5 is not a whole number in [1, inf)."),
        (lambda: Triplet(margin=-1), "triplet: margin=-1 is not a number in [0, inf)."),
        (lambda: Triplet(soft="false"), "triplet: soft='false' is not True or False."),
        (lambda: augment.Thin(p="1"), "thin: p='1' is not a number in (0, 1]."),
        (lambda: augment.Noise(expressed=1), "noise: expressed=1 is not True or False."),
        (lambda: augment.Mixup(share=True), "mixup: share=True is not a number in (0, 1]."),
        (lambda: Sum(["softmax", "center"], [1]), "A sum needs at least one loss and a weight for each: got 2, 1."),
        (lambda: Sum([]), "A sum needs at least one loss and a weight for each: got 0, 0."),
        *(
            (lambda weight=weight: Sum(["softmax"], [weight]), f"The weight {weight!r} is not a number in (0, inf).")
            for weight in (0, -1, math.inf, math.nan, "2")
        ),
    ],
)
def test_objects_are_checked_like_text(make, message):
    assert refusal(make) == f"ValueError: {message}"

"""A wrong argument of a public verb says what to type; names, signatures and hints stay those of the verb."""

import inspect
import pickle

import pytest

import tripletomics as tt
from tripletomics import tl
from tripletomics.arguments import CURES, SYNONYMS, checking_names

VERBS = [getattr(tl, name) for name in tl.__all__]
VERBS += [getattr(tt.pl, name) for name in tt.pl.__all__ if inspect.isfunction(getattr(tt.pl, name))]
WORDS = [
    (tt.fit, "labels", "fit() has no argument 'labels'. Did you mean 'label'?"),
    (tt.fit, "labels_key", "Did you mean 'label'?"),
    (tt.fit, "batch_key", "Did you mean 'batch'?"),
    (tt.fit, "random_state", "Did you mean 'seed'?"),
    (tt.fit, "test_size", "Did you mean 'hold_out'?"),
    (tt.fit, "n_latent", "Did you mean 'metric_dim'?"),
    (tt.fit, "max_epochs", "Did you mean 'steps'?"),
    (tt.fit, "lable", "fit() has no argument 'lable'. Did you mean 'label'?"),
    (tt.fit, "n_jobs", "set OMP_NUM_THREADS before Python starts (on the command line: --threads)."),
    (tt.transform, "copy", "to keep the cells as they are, pass adata.copy()."),
    (tt.predict, "use_raw", "pass adata.raw.to_adata() in place of adata."),
    (tt.explain, "labels_key", "Did you mean 'groups'?"),
    (tt.transform, "zzz", "transform() has no argument 'zzz'. Arguments: adata, model, layer"),
    (tt.pl.embedding, "colour", "Did you mean 'color'?"),
    (tt.pl.embedding, "color_map", "Did you mean 'cmap'?"),
    (tt.pl.embedding, "s", "Did you mean 'size'?"),
    (tt.pl.embedding, "wspace", "it has no such setting; change the figure with matplotlib."),
    (tt.pl.embedding, "use_rep", "Did you mean 'basis'?"),
]


@pytest.mark.parametrize(
    ("verb", "name", "words"), WORDS, ids=lambda value: getattr(value, "__name__", str(value)[:20])
)
def test_a_wrong_name_says_what_to_type(verb, name, words):
    with pytest.raises(TypeError) as caught:
        verb(None, **{name: 1})
    assert words in str(caught.value)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: f"{verb.__module__}.{verb.__name__}")
def test_every_public_verb_checks_names_and_is_still_itself(verb):
    with pytest.raises(TypeError, match="has no argument 'no_such_thing'"):
        verb(no_such_thing=1)
    bare = inspect.unwrap(verb)
    assert inspect.signature(verb) == inspect.signature(bare)
    assert verb.__annotations__ == bare.__annotations__
    assert verb.__doc__ == bare.__doc__
    assert pickle.loads(pickle.dumps(verb)) is verb


def test_words_point_at_arguments_that_exist():
    ours = {name for verb in VERBS for name in inspect.signature(verb).parameters}
    assert set(SYNONYMS) <= ours
    assert all(names.split() for names in [*SYNONYMS.values(), *CURES.values()])


def test_what_a_verb_is_given_arrives():
    @checking_names
    def verb(a, /, b=2, *, c=3):
        return a, b, c

    assert inspect.signature(tt.fit, eval_str=True) == inspect.signature(inspect.unwrap(tt.fit), eval_str=True)
    assert verb(1, c=5) == (1, 2, 5)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        verb()

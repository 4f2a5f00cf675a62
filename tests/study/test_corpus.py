"""Docstring extraction: prose is kept, code and markup are removed, and a file belongs to one split."""

import pytest

from ken.errors import UserError
from study import corpus

SOURCE = '''
"""Module prose stands here in one plain sentence."""

def outer(x):
    """
    Compute the smoothed value of a noisy signal.

    The smoothing of the whole signal is done with a `window` of fixed length by :func:`scipy.signal.lfilter`.
    It continues on the same paragraph.

    Parameters
    ----------
    x : array_like
        Input values that will be smoothed by the filter.

    Examples
    --------
    >>> outer([1, 2, 3])
    array([1., 2., 3.])

    The following code block is not prose::

        This indented text is literal and must go away.

    .. math::

        A formula is also left out of the text here.

    After all of that the prose goes on again.
    """
    def inner():
        """A function inside of a function is never documentation."""
'''


def extract_sentences(source):
    return [
        sentence
        for docstring in corpus.docstrings(source)
        for paragraph in corpus.paragraphs(docstring)
        for sentence in corpus.sentences(paragraph)
    ]


def test_prose_is_kept_and_code_is_not():
    assert extract_sentences(SOURCE) == [
        "Module prose stands here in one plain sentence.",
        "Compute the smoothed value of a noisy signal.",
        "The smoothing of the whole signal is done with a window of fixed length by scipy.signal.lfilter.",
        "It continues on the same paragraph.",
        "Input values that will be smoothed by the filter.",
        "After all of that the prose goes on again.",
    ]


def test_the_split_depends_only_on_the_path_and_has_the_stated_shares():
    splits = [corpus.split_of(f"package/module{i}.py") for i in range(4000)]
    assert splits == [corpus.split_of(f"package/module{i}.py") for i in range(4000)]
    assert abs(splits.count("test") / 4000 - corpus.SPLIT_SHARES["test"]) < 0.03
    assert abs(splits.count("validation") / 4000 - corpus.SPLIT_SHARES["validation"]) < 0.03


def test_extraction_is_deterministic_and_without_duplicates():
    first, second = corpus.extract("mpmath"), corpus.extract("mpmath")
    assert first.equals(second)
    assert len(first) > 300
    assert first["sentence"].is_unique
    assert (first.groupby("file")["split"].nunique() == 1).all()


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(UserError, match="not_a_package"):
        corpus.extract("not_a_package")

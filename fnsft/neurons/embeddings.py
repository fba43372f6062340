"""Texts as vectors of length 1, so that a dot product is a cosine.

The default is TF-IDF over n-grams of characters within words, reduced by a truncated SVD. Of
characters, since descriptions are short: « cookie» and « cookies» then share most of their
n-grams, and a token that is a sign or a piece of a word is a word in its quotation marks, where
an n-gram of words would have none. It knows no synonyms; a sentence model does.

Shapes: M texts, d dimensions.
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from fnsft.config.stages import SimilaritySettings
from fnsft.errors import InputError

N_GRAMS = (3, 4)  # characters
FITTED_TEXTS = 8_000  # that the SVD's directions are found from; all are projected on them
ROUNDING = 1e-9


def embed(texts: Sequence[str], settings: SimilaritySettings) -> np.ndarray:
    """Return the texts' vectors, [M, d] float32, of length 1; equal texts have equal ones.

    A text that shares nothing with any other may be 0. Memory: about 2 kB a text.

    Raises
    ------
    InputError
        When sentence-transformers is asked for and not installed, or its model cannot be read.
    """
    distinct, place = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
    if settings.embedding == "sentence-transformers":
        vectors = _sentences(distinct.tolist(), str(settings.embedding_model))
    else:
        vectors = _tfidf(distinct.tolist(), settings.n_components, settings.seed)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.where(lengths > ROUNDING, vectors / np.maximum(lengths, ROUNDING), 0)
    return unit[place].astype(np.float32)


def _tfidf(texts: list[str], n_components: int, seed: int) -> np.ndarray:
    counted: csr_matrix = TfidfVectorizer(analyzer="char_wb", ngram_range=N_GRAMS).fit_transform(
        texts
    )
    if min(counted.shape) < 2:  # nothing to reduce: an SVD needs two texts, and two n-grams
        return counted.toarray()
    rng = np.random.default_rng(seed)
    n_fitted = min(FITTED_TEXTS, len(texts))
    fitted = counted[np.sort(rng.choice(len(texts), n_fitted, replace=False))]
    n_kept = min(n_components, *fitted.shape)
    return TruncatedSVD(n_kept, random_state=seed).fit(fitted).transform(counted)


def _sentences(texts: list[str], folder: str) -> np.ndarray:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise InputError(
            "embedding: sentence-transformers is not installed; pip install 'fnsft[sentence]', or "
            "use --embedding tfidf"
        ) from None
    try:
        model = SentenceTransformer(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"embedding_model: {folder}: expected the folder of a sentence model, found none "
            f"({reason:.120})"
        ) from None
    return np.asarray(model.encode(texts, batch_size=64, show_progress_bar=None))

"""The paper's statements as code: Lemma 1, Theorem 1, Theorem 2, and what is wrong with them."""

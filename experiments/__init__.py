"""The paper's tables and figures as runs: which there are, which are done, and the queue that does what is missing."""

"""A metric in one file: the share of pixels that differ by more than a few levels; one value for the whole set."""

import numpy as np


class Changed:
    """In %, over all pictures together."""

    name, title, unit, better, capped = "changed", "pixels changed", "%", "lower", False

    def begin(self):
        """Forgets all pictures."""
        self.changed = self.all = 0

    def add(self, reference, candidate):
        """Counts a batch."""
        difference = np.abs(reference.pictures.astype(int) - candidate.pictures).max(axis=-1)
        self.changed, self.all = self.changed + int((difference > 4).sum()), self.all + difference.size

    def value(self):
        """One value."""
        return np.array([100 * self.changed / self.all])

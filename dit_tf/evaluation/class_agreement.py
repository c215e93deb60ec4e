"""Do samples show the class that was asked for? A classifier that never met the generator is the judge."""

import numpy as np


def train_classifier(features, labels):
    """A support vector machine with a Gaussian kernel on (M, D) features of real images and their (M,) labels.

    It has no randomness: the same images give the same judge.
    """
    from sklearn.svm import SVC  # takes a second to import; only digits are scored by it

    # C = 10: the margin of the digits is wide, so anything from 1 to 100 judges all held-out digits but one alike.
    return SVC(kernel="rbf", C=10.0, gamma="scale").fit(features, labels)


def class_agreement(classifier, features, labels):
    """The share of (M, D) features that the classifier puts into their class of `labels` (M,); 0..1.

    On held-out real images with their true labels this is the classifier's own accuracy, the ceiling to compare with.
    """
    return float(np.mean(classifier.predict(features) == labels))

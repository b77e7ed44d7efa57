"""What can go wrong while serving, as one tree; the HTTP layer maps it to problem answers.

ServingError
    InvalidRequestError         the caller asked for something that cannot be answered
        UnknownVideoError       the video that it is about is not in the release
    NotPossibleError            what is asked cannot be done as things are
    OverloadedError             too many requests in flight; come back in ``retry_after_s``
    NotReadyError               no release is loaded yet
    HandoverError               another process was to take over with a new release, and failed
    HistoryUnavailableError     the history store cannot be read or written
        HistoryLostError        it is there, and what it held is not
    EventLogError               events cannot be made durable, for example: disk full
    FilterError                 a filter that was asked for cannot decide, so nothing is shown
    StageTimeoutError           a part of the funnel did not answer in time, or did not lately
    IndexPartialError           some shards of the index did not answer; it has what the others did
    ModelError                  a model refused the inputs or failed
        ModelTimeoutError       a model did not answer within its deadline
        ModelUnavailableError   the model server cannot be reached, or is too busy
        ModelVersionMissingError  the model server does not have the release's version, or not yet
"""

import numpy as np


class ServingError(Exception):
    """Anything that goes wrong while answering a request."""


class InvalidRequestError(ServingError):
    """The request breaks a rule that its schema cannot express."""


class UnknownVideoError(InvalidRequestError):
    """The request is about a video that the release does not have."""


class NotPossibleError(ServingError):
    """What is asked cannot be done as things are; the message says why, and what to do."""


class OverloadedError(ServingError):
    """As many requests as allowed are in flight already.

    Attributes:
        retry_after_s: Time after which the caller should try again, seconds.
    """

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReadyError(ServingError):
    """No release is loaded."""


class HandoverError(ServingError):
    """A successor failed; this process goes on."""


class HistoryUnavailableError(ServingError):
    """The history store failed; whatever was being written is not there."""


class HistoryLostError(HistoryUnavailableError):
    """The history store holds nothing of what it held; it must be filled again from the logs."""


class EventLogError(ServingError):
    """Events could not be made durable, so they must not be acknowledged."""


class FilterError(ServingError):
    """A filter failed. What it was to hold back must not be shown for that."""


class StageTimeoutError(ServingError):
    """A stage of the funnel, or one of its sources, is given up."""


class IndexPartialError(ServingError):
    """Some shards of the index did not answer, so that nobody takes a part for the whole unawares.

    Attributes:
        rows: int32 [Q, at most k], what the others retrieved, best first.
        scores: float32 of the same shape.
        answered: Share of the videos that was searched, in [0, 1).
    """

    def __init__(
        self, message: str, *, rows: np.ndarray, scores: np.ndarray, answered: float
    ) -> None:
        super().__init__(message)
        self.rows = rows
        self.scores = scores
        self.answered = answered


class ModelError(ServingError):
    """A model refused its inputs, failed, or answered something unusable."""


class ModelTimeoutError(ModelError):
    """A model did not answer within its deadline."""


class ModelUnavailableError(ModelError):
    """The server of a model cannot be reached or takes no more calls."""


class ModelVersionMissingError(ModelError):
    """The server of a model does not have the version of the release, or not yet."""

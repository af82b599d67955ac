"""Every error this product raises on purpose.

* FraudError
  + UserError                  the caller can mend it: exit code 2
    x ParameterError           a parameter is unknown, missing, of the wrong type or out of range
    x DataError                a history, capture or label file cannot be used as it is
    x PlatformError            AWS, the local AWS, a port or the disk is not as needed
  + InvalidRequestError        a request body that cannot be answered: HTTP 4xx
  + EndpointError              the model cannot answer now: HTTP 429 or 5xx
    x ModelRefusalError        it refused what the released model's schema accepts
  x ConflictError              somebody else wrote the document since it was read
  x CaptureFormatError         a captured line that cannot be read: quarantined, counted
  x QualityGateError           a model that must not be deployed: the endpoint stays as it is
  x ApprovalError              a model that nobody let pass yet: the endpoint stays as it is
  x TrainingJobError           the training job failed or timed out
  x ProcessingJobError       the processing job failed or was stopped
  x DeploymentError            the endpoint update failed or was rolled back
"""

from __future__ import annotations


class FraudError(Exception):
    """Base of every error raised on purpose; ``exit_code`` is what the command line returns for it."""

    exit_code = 1


class UserError(FraudError):
    """The user can mend it; the message names the thing, its value and what to do."""

    exit_code = 2


class ParameterError(UserError):
    """A parameter is unknown, missing, of the wrong type or out of range."""


class DataError(UserError):
    """A file of transactions, captures or labels cannot be used; names file, column and row."""


class PlatformError(UserError):
    """AWS, the local AWS, a port or the disk is not as needed; says what to do."""


class InvalidRequestError(FraudError):
    """A request that cannot be answered.

    Parameters
    ----------
    detail : str
        One sentence, free of the caller's own bytes.
    status : int, default=400
        HTTP status.
    errors : sequence of dict, optional
        ``{"field", "problem"}`` for each field at fault.
    """

    def __init__(self, detail: str, status: int = 400, errors: list[dict[str, str]] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.errors = errors or []


class EndpointError(FraudError):
    """A good request that cannot be answered now.

    Parameters
    ----------
    detail : str
        One sentence, free of the caller's own bytes and of the model's logs.
    status : int
        HTTP status.
    retry_after : int, optional
        Seconds after which another attempt makes sense.
    """

    def __init__(self, detail: str, status: int, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.retry_after = retry_after


class ModelRefusalError(EndpointError):
    """The endpoint refused a request that the released model's schema accepts: another model answers there."""

    def __init__(self) -> None:
        super().__init__("The model that answers now takes other fields than the released one; try again.", 503, 5)


class ConflictError(FraudError):
    """Somebody else wrote the document since it was read, or one's own write was repeated after its answer was lost."""


class CaptureFormatError(FraudError):
    """A captured or labelled line that cannot be read; the message is the reason, without the line's content."""


class QualityGateError(FraudError):
    """The trained model must not be deployed; the endpoint stays as it is."""


class ApprovalError(FraudError):
    """The model waits for approval, or was rejected; the endpoint stays as it is."""


class TrainingJobError(FraudError):
    """The training job failed or timed out; carries the last lines of its log."""


class ProcessingJobError(FraudError):
    """The processing job failed or was stopped; carries its reason."""


class DeploymentError(FraudError):
    """The endpoint could not be updated, or was rolled back to the previous release."""

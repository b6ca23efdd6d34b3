"""Says in one sentence what went wrong with a request to the hub."""

from __future__ import annotations

from promptd.errors import Busy, NotFound, PromptdError, RuntimeFailure, SecurityDenied, TimedOut, TooLarge


class GaveUp(Exception):
    """Raised inside a download that asks for the same bytes again and again; a failed attempt before it is its
    `__context__`.
    """


def explained(error: Exception, subject: str, endpoint: str) -> PromptdError:
    """Return the promptd error for `error`, raised by huggingface_hub or httpx2 while asking `endpoint` for
    `subject`.
    """
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, PromptdError):
        return error
    if isinstance(error, GaveUp):
        if isinstance(error.__context__, Exception):
            return explained(error.__context__, subject, endpoint)
        return RuntimeFailure(f"{endpoint} redirects {subject} in a circle")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return RuntimeFailure(f"{subject} cannot be pulled while HF_HUB_OFFLINE is set")
    if isinstance(error, errors.HfHubHTTPError):
        return _status(error, subject, endpoint)
    if isinstance(error, httpx2.TooManyRedirects):
        return RuntimeFailure(f"{_host(error, endpoint)} redirects {subject} in a circle")
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
        return RuntimeFailure(f"cannot reach {_host(error, endpoint)} for {subject}: {_reason(error)}")
    if isinstance(error, httpx2.TimeoutException):
        return TimedOut(f"{_host(error, endpoint)} stopped sending {subject}; pull again to resume")
    if isinstance(error, httpx2.TransportError):
        return RuntimeFailure(
            f"the connection to {_host(error, endpoint)} broke while pulling {subject}; pull again to resume"
        )
    if isinstance(error, errors.FileMetadataError | errors.HFValidationError | httpx2.InvalidURL | httpx2.HTTPError):
        return RuntimeFailure(f"{endpoint} does not answer like a Hugging Face hub for {subject}: {_reason(error)}")
    if isinstance(error, ValueError) and "too large" in str(error):
        return TooLarge(f"{subject} is larger than the 50 GB that the hub serves over plain HTTP")
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return RuntimeFailure(f"{subject} broke off before its end; pull again to resume")
    return RuntimeFailure(f"pulling {subject} from {endpoint} failed: {_reason(error)}")


def _status(error: Exception, subject: str, endpoint: str) -> PromptdError:
    from huggingface_hub import errors

    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return SecurityDenied(f"{subject} is gated: accept its terms on the hub's page and set HF_TOKEN to your token")
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return NotFound(
            f"the hub has no {subject} that you may see; if it is private, set HF_TOKEN to a token that may read it"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return NotFound(f"the hub has no such revision of {subject}")
    if isinstance(error, errors.RemoteEntryNotFoundError) or status == 404:
        return NotFound(f"the hub has no {subject}")
    if status in (403, 451):
        return SecurityDenied(f"the hub refuses {subject} (HTTP {status}); HF_TOKEN may lack the right to read it")
    if status == 429:
        seconds = response.headers.get("retry-after", "") if response is not None else ""
        when = f"in {seconds} seconds" if seconds.isdigit() else "later"
        return Busy(f"the hub limits how often it may be asked, also for {subject} (HTTP 429); try again {when}")
    return RuntimeFailure(f"{endpoint} answered HTTP {status} for {subject}; try again later")


def _host(error: Exception, endpoint: str) -> str:
    try:
        return str(error.request.url.host)  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):
        return endpoint


def _reason(error: Exception) -> str:
    """Return the first line of what an exception says; its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__

"""Why an object store refuses: the cause, the permission that is missing, what to do. Never in its own words, which can

hold key ids, and addresses that are signed.
"""

from __future__ import annotations

import re

from augmill.tasks.errors import StoreRefused

_KEYS = "set AWS_..., GOOGLE_... or AZURE_... of an account that can reach it, or give the machine a role"
_EXPIRED = "the credentials have expired", "renew them and run it again; what is finished is kept"
_REGION = "it is in another region, or at another endpoint", "set AWS_REGION (and AWS_ENDPOINT_URL) to the bucket's own"
_ABSENT = (
    "there is no such bucket",
    "create the bucket, or correct its name, region and endpoint (AWS_REGION, AWS_ENDPOINT_URL)",
)
# The error codes of S3, and of those that speak as it does, GCS and Azure: (what it means, what to do).
_CODES = {
    **dict.fromkeys(("ExpiredToken", "TokenRefreshRequired", "InvalidToken", "RequestExpired"), _EXPIRED),
    **dict.fromkeys(
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"), _REGION
    ),
    **dict.fromkeys(("NoSuchBucket", "ContainerNotFound"), _ABSENT),
    "InvalidBucketName": ("that is not the name of a bucket", "correct it"),
    "InvalidAccessKeyId": ("it does not know the access key", _KEYS),
    "SignatureDoesNotMatch": ("the secret key is not that of the access key", "correct AWS_SECRET_ACCESS_KEY"),
    "AuthenticationFailed": ("it does not know these credentials", _KEYS),
    "RequestTimeTooSkewed": ("the clock of this machine is wrong", "set the clock"),
    "AllAccessDisabled": ("nobody may access it", "ask its owner"),
}
# What obstore says of itself, without an answer.
_SIGNS = {
    "incorrectly configured region": _REGION,
    "169.254.169.254": ("no credentials were found, and the machine's metadata service gave none", _KEYS),
    "metadata.google.internal": ("no credentials were found, and the machine's metadata service gave none", _KEYS),
    "The specified bucket does not exist": _ABSENT,
    "The specified container does not exist": _ABSENT,
}
_VERBS = {
    "list": ("list it", "s3:ListBucket", "storage.objects.list"),
    "GET": ("read from it", "s3:GetObject", "storage.objects.get"),
    "HEAD": ("read from it", "s3:GetObject", "storage.objects.get"),
    "PUT": ("write to it", "s3:PutObject", "storage.objects.create"),
    "POST": ("write to it", "s3:PutObject", "storage.objects.create"),
    "DELETE": ("delete from it", "s3:DeleteObject", "storage.objects.delete"),
}


def refusal(error: Exception, where: str) -> StoreRefused | None:
    """What waiting cannot cure, named; None for what it may. ``where`` begins with the bucket's address."""
    text = str(error)
    address = re.match(r"\w+://[^/:\s]+", where)
    bucket = address[0] if address else where
    code = _code(text)
    found = _CODES.get(code) or next((said for sign, said in _SIGNS.items() if sign in text), None)
    if found is not None:
        problem = f"bucket {bucket}: {found[0]}" + (f" ({code})" if code in _CODES else "")
        return StoreRefused(problem, where=where, fix=found[1])
    status = re.search(r"status code: (40[0-3])\b", text)
    if status is None:
        return None
    denied = code or "access denied"
    if status[1] == "401":
        return StoreRefused(f"bucket {bucket} does not know these credentials (401, {denied})", where=where, fix=_KEYS)
    if status[1] == "403":
        verb, permission = _permission(text, bucket)
        fix = f"grant {permission} on it to the account whose credentials these are, or give another account's"
        missing = f"{permission} is missing, or denied by a policy"
        return StoreRefused(
            f"bucket {bucket} does not let this account {verb} (403, {denied}): {missing}", where=where, fix=fix
        )
    if status[1] == "400" and "HEAD" in text:  # its answer has no body, so that nobody is told why
        problem = (
            f"bucket {bucket} does not take the request (400): expired credentials, or another region, look like this"
        )
        return StoreRefused(problem, where=where, fix=f"{_EXPIRED[1]}; or {_REGION[1]}")
    return None


def _code(text: str) -> str:
    found = re.search(r"<Code>([A-Za-z][A-Za-z.]{0,63})</Code>", text)
    return found[1] if found else ""


def _permission(text: str, bucket: str) -> tuple[str, str]:
    """What was tried, and what allows it."""
    act = (
        "list" if "performing list request" in text else next((v for v in _VERBS if f"performing {v} " in text), "GET")
    )
    verb, amazon, google = _VERBS[act]
    if bucket.startswith("gs:"):
        return verb, google
    if bucket.startswith("az:"):
        reads = act in ("list", "GET", "HEAD")
        return verb, f"the role Storage Blob Data {'Reader' if reads else 'Contributor'}"
    return verb, f"{amazon} (and s3:ListBucket, without which what is absent is denied)" if act == "HEAD" else amazon


def plainly(text: str) -> str:
    """obstore's words without the answer's body and without the query of an address, which may be signed."""
    text = re.sub(
        r"(status code: \d{3}(?: [A-Za-z-]+)*).*", r"\1", text.split("\n\nDebug source:", 1)[0], flags=re.DOTALL
    )
    return re.sub(r"(https?://[^\s?]*)\?\S*", r"\1", text)

"""From what S3 answers, or what the network does, to the setting that has to change: for boto3 and for the tables."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from .s3_patience import THROTTLED


@dataclass(frozen=True)
class Advice:
    """What to do about a refusal.

    Attributes:
        text: in a few words.
        refused: whether the same request will be refused again until a setting, a right or a key is changed.
    """

    text: str
    refused: bool = True


_RIGHTS = Advice("allow GetObject, PutObject, DeleteObject and ListBucket on the bucket and prefix")
_KEYS = Advice("check the credentials in the environment or the profile: AWS_ACCESS_KEY_ID, AWS_PROFILE")
_RENEW = Advice(
    "the credentials have expired: renew them (aws sso login, or a new session token), then run again"
)
_CHECKSUM = Advice(
    "if the message is about a checksum, set s3.checksums to crc32 or none: this service refuses what went along"
)
_REGION = Advice("the bucket is in another region: set s3.region (AWS_REGION)")
_ENDPOINT = "check s3.endpoint_url (AWS_ENDPOINT_URL, or endpoint_url in the AWS configuration file)"
NO_S3 = Advice(f"what answers there does not speak S3; a console's port or a web page? {_ENDPOINT}")
_TRY_AGAIN = Advice("the service has trouble of its own; try again later", refused=False)
_SPACE = Advice("make room in the bucket or raise its quota", refused=False)
_NETWORK = Advice("check the endpoint, the network and the credentials", refused=False)
_SLOW = Advice("the store asks to slow down: lower the number of workers or try again later", refused=False)
_CERTIFICATE = Advice(
    "the service's certificate is not trusted: name its authority in AWS_CA_BUNDLE and SSL_CERT_FILE, or check whether "
    "the endpoint is http:// or https://"
)
_NAME = Advice(f"there is no host of that name; {_ENDPOINT}, or the network's name service", refused=False)
_NO_ANSWER = Advice(f"check the endpoint and the network: nothing answers there; {_ENDPOINT}", refused=False)
_PROXY = Advice(
    "the proxy does not answer: check HTTP_PROXY and HTTPS_PROXY, and name the endpoint's host in NO_PROXY",
    refused=False,
)

ADVICE: dict[str, Advice] = {
    "NoSuchBucket": Advice("create the bucket or correct the store's address"),
    "InvalidBucketName": Advice("no bucket can have this name: correct the store's address"),
    "AccessDenied": _RIGHTS,
    "AllAccessDisabled": _RIGHTS,
    "AccountProblem": _RIGHTS,
    "403": _RIGHTS,
    "InvalidAccessKeyId": _KEYS,
    "InvalidToken": _KEYS,
    "UnrecognizedClientException": _KEYS,
    "401": _KEYS,
    "SignatureDoesNotMatch": Advice(
        f"{_KEYS.text}; if they are right, something between changes the request: a proxy, or s3.path_style"
    ),
    "ExpiredToken": _RENEW,
    "ExpiredTokenException": _RENEW,
    "TokenRefreshRequired": _RENEW,
    "RequestExpired": _RENEW,
    "RequestTimeTooSkewed": Advice("this machine's clock is wrong: set it (timedatectl set-ntp true)"),
    "NotImplemented": Advice(
        "the service does not know a request that faceid needs; if it is a write with If-None-Match or If-Match, use "
        "another service (faceid doctor tries them), if a checksum's header, set s3.checksums: none"
    ),
    "InvalidRequest": _CHECKSUM,
    "InvalidArgument": _CHECKSUM,
    "InvalidDigest": _CHECKSUM,
    "BadDigest": _CHECKSUM,
    "XAmzContentChecksumMismatch": _CHECKSUM,
    "XAmzContentSHA256Mismatch": _CHECKSUM,
    "PermanentRedirect": _REGION,
    "TemporaryRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "AuthorizationQueryParametersError": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "301": _REGION,
    "307": _REGION,
    "MethodNotAllowed": NO_S3,
    "405": NO_S3,
    "KeyTooLongError": Advice("choose a shorter prefix for the store"),
    "QuotaExceeded": _SPACE,
    "XMinioStorageFull": _SPACE,
    "InsufficientStorage": _SPACE,
    "507": _SPACE,
    "InternalError": _TRY_AGAIN,
    "500": _TRY_AGAIN,
    "502": _TRY_AGAIN,
    "504": _TRY_AGAIN,
    "RequestTimeout": _NETWORK,
    **dict.fromkeys(THROTTLED, _SLOW),
}
_KMS = Advice("check s3.kms_key, and allow kms:GenerateDataKey and kms:Decrypt on it")
# boto3 takes a web page with status 200 for a 500; a gateway's own pages of 502 to 504 are its trouble.
_CODES_OF_PAGES = {"400", "404", "405", "500"}
_UNKNOWN = Advice("see the service's message", refused=False)
# The first that fits: the special ones come before their families.
_OF_EXCEPTIONS: tuple[tuple[type[Exception], Advice], ...] = (
    (boto.NoCredentialsError, Advice("there are no credentials here: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                                     "or AWS_PROFILE")),
    (boto.PartialCredentialsError, _KEYS),
    (boto.ProfileNotFound, Advice("AWS_PROFILE names a profile that the AWS configuration files do not have")),
    (boto.CredentialRetrievalError, _KEYS),
    (boto.TokenRetrievalError, _RENEW),
    (boto.UnauthorizedSSOTokenError, _RENEW),
    (boto.SSOTokenLoadError, _RENEW),
    (boto.NoRegionError, Advice("set s3.region (AWS_REGION)")),
    (boto.ParamValidationError, Advice("correct the store's address")),
    (boto.SSLError, _CERTIFICATE),
    (boto.ProxyConnectionError, _PROXY),
    (boto.InvalidProxiesConfigError, _PROXY),
    (ResponseParserError, NO_S3),
)  # fmt: skip
# What the tables' library says in words only, and what boto3's connection errors say of their cause.
_OF_WORDS: tuple[tuple[str, Advice], ...] = (
    (r"incorrectly configured region|redirect without LOCATION", _REGION),
    (r"dns error|failed to lookup address|Name or service not known|Failed to resolve|getaddrinfo|"
     r"nodename nor servname|Temporary failure in name resolution", _NAME),
    (r"certificate|UnknownIssuer|InvalidContentType|WRONG_VERSION_NUMBER", _CERTIFICATE),
    (r"[Pp]roxy", _PROXY),
    (r"[Cc]onnection refused|tcp connect error|No route to host|Network is unreachable", _NO_ANSWER),
    (r"ETag Header missing|Unable to extract metadata from headers|invalid list response", NO_S3),
    (r"necessary privileges|403 Forbidden", _RIGHTS),
    (r"401 Unauthorized", _KEYS),
    (r"No space left|[Qq]uota", _SPACE),
)  # fmt: skip
_CODE, _NAMED_REGION = re.compile(r"<Code>([\w.]+)</Code>"), re.compile(r"<Region>([\w-]+)</Region>")


def is_page(answer: Mapping) -> bool:
    """Whether an answer, as boto3 gives it, is a web page."""
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers.get("content-type", "").lower().startswith("text/html")


def code_of(error: boto.ClientError) -> str:
    """The service's code; a status where the answer had no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def advise(error: Exception) -> Advice:
    """What to do about an error of boto3's."""
    if isinstance(error, boto.ClientError):
        if is_page(error.response) and code_of(error) in _CODES_OF_PAGES:
            return NO_S3
        return _with_details(_of_code(code_of(error)), error)
    for kind, advice in _OF_EXCEPTIONS:
        if isinstance(error, kind):
            return advice
    # What boto3 says of a connection leaves out why it failed.
    return advise_words(f"{error} {getattr(error, 'kwargs', {}).get('error', '')}")


def advise_words(text: str) -> Advice:
    """What to do about an error that is known by its text only, as those of the tables' library are."""
    if found := _CODE.search(text):
        region = _NAMED_REGION.search(text)
        return _in_region(_of_code(found[1]), region[1] if region else None)
    return next((advice for words, advice in _OF_WORDS if re.search(words, text)), _NETWORK)


def _of_code(code: str) -> Advice:
    return _KMS if code.startswith(("KMS.", "Kms")) else ADVICE.get(code, _UNKNOWN)


def _with_details(advice: Advice, error: boto.ClientError) -> Advice:
    """The region that the answer names, and how far its clock is from this one."""
    answer = error.response.get("Error", {})
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if code_of(error) == "RequestTimeTooSkewed" and "date" in headers:
        try:
            ahead = (dt.datetime.now(dt.UTC) - parsedate_to_datetime(headers["date"])).total_seconds()
        except (ValueError, TypeError):
            return advice
        how = f"{abs(ahead) / 60:.0f} min {'ahead of' if ahead > 0 else 'behind'} the service's"
        return Advice(f"{advice.text}; it is {how}", advice.refused)
    advice = _in_region(advice, answer.get("Region") or headers.get("x-amz-bucket-region"))
    named = answer.get("Endpoint") or headers.get("location")
    if advice.text.startswith(_REGION.text) and named:
        return Advice(f"{advice.text}, or s3.endpoint_url; the answer names {named}")
    return advice


def _in_region(advice: Advice, region: str | None) -> Advice:
    return Advice(f"{_REGION.text} to {region}") if region and advice is _REGION else advice

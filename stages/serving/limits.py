"""How much one request, and all of them together, may ask of a server."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

MIB, MEGA = 2**20, 10**6
AT_ONCE = 2  # requests that decode their inputs: a picture of a few bytes can take hundreds of megabytes
HEAD_BYTES = 16 * 1024  # of a request's head
RESERVE = 32  # connections beyond the limit, on which /health and /ready alone are answered


class Limits(BaseModel):
    """The options of `otmf serve`.

    Attributes:
        largest_mib: of a request's body.
        most: inputs of a request.
        most_megapixels: that decoding all pictures of a request would compute.
        seconds: from the head of a request to the end of its answer.
        head_seconds: for the head of a request, and for the client to take an answer.
        held_mib: bodies of all requests together.
        connections: at a time, and as many requests.
        linger: seconds in which the server goes on taking connections after it was asked to end.
        grace: seconds, those included, in which requests under way may end.
        hosts: names by which the server may be asked; `*` for any.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    largest_mib: float = Field(gt=0)
    most: int = Field(ge=1)
    most_megapixels: float = Field(gt=0)
    seconds: float = Field(gt=0)
    head_seconds: float = Field(gt=0)
    held_mib: float = Field(gt=0)
    connections: int = Field(ge=1)
    linger: float = Field(ge=0)
    grace: float = Field(gt=0)
    hosts: tuple[str, ...] = ()

    @property
    def largest(self) -> int:
        """Bytes of a request's body."""
        return int(self.largest_mib * MIB)

    @property
    def held(self) -> int:
        """Bytes of all bodies."""
        return int(self.held_mib * MIB)

    @property
    def pixels(self) -> int:
        """Of all pictures of a request."""
        return int(self.most_megapixels * MEGA)

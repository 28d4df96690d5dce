"""What became of the withdrawals of a sidecar that stops: which addresses are released, and what is left of others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from vipmanager.actions import DeleteRoute, UnassignAddress, Withdrawal
from vipmanager.model import Address, Claim, Claims, PlacementKind

Key = tuple[str, ...]


@dataclass(frozen=True)
class Released:
    """`gone`: the addresses of which nothing is left. `left`: of the others, what was to be taken back and was not.

    `claims`: what this pod still has claimed.
    """

    gone: tuple[Address, ...] = ()
    left: Mapping[Address, tuple[Withdrawal, ...]] = field(default_factory=dict)
    claims: Claims = field(default_factory=dict)


def place(action: Withdrawal) -> str:
    """The route table, or the ENI."""
    return action.table_id if isinstance(action, DeleteRoute) else action.eni_id


def released(claims: Claims, wanted: Iterable[Withdrawal], failed: Collection[Key]) -> Released:
    """An address is released when all that was to be taken back for it has been; `failed` are the keys of the rest.

    A claim on an address that is not goes on for the targets that still deliver it.
    """
    by_place = _Places(wanted)
    gone: list[Address] = []
    left: dict[Address, tuple[Withdrawal, ...]] = {}
    kept: dict[Address, Claim] = {}
    for address, claim in claims.items():
        mine = tuple(by_place.of(claim))
        rest = tuple(action for action in mine if action.key in failed)
        if mine and not rest:
            gone.append(address)
            continue
        kept[address] = claim
        if rest:
            left[address] = rest
            done = set(map(place, mine)) - set(map(place, rest))
            kept[address] = replace(claim, held={to: at for to, at in claim.held.items() if to not in done})
    return Released(tuple(sorted(gone, key=lambda each: (each.version, each))), left, kept)


class _Places:
    """Withdrawals by what they take back: an address of an ENI, or the routes to one, by destination."""

    def __init__(self, wanted: Iterable[Withdrawal]) -> None:
        self._addresses: dict[tuple[str, Address], Withdrawal] = {}
        self._routes: defaultdict[tuple[str, int, int, int], list[Withdrawal]] = defaultdict(list)
        for action in wanted:
            if isinstance(action, UnassignAddress):
                self._addresses[action.eni_id, action.address] = action
                continue
            to = action.destination
            bits = to.max_prefixlen - to.prefixlen
            self._routes[action.eni_id, to.version, bits, int(to.network_address) >> bits].append(action)
        self._lengths = sorted({(version, bits) for _, version, bits, _ in self._routes})

    def of(self, claim: Claim) -> Iterator[Withdrawal]:
        """Those by which the address of a claim is delivered."""
        address, number = claim.address, int(claim.address)
        if claim.kind is PlacementKind.ENI_ADDRESS:
            action = self._addresses.get((claim.eni_id, address))
            yield from () if action is None else (action,)
            return
        for version, bits in self._lengths:
            if version == address.version and not claim.conceded_to:
                yield from self._routes.get((claim.eni_id, version, bits, number >> bits), ())

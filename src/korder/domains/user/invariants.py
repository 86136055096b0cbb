"""What must always hold of members and points; `korder audit` runs it. See docs/scarcity.md."""

from korder.domains.user.store import queries
from korder.kernel.audit import Finding
from korder.platform.postgres import Connection


async def check(conn: Connection) -> list[Finding]:
    """Invariant 7, the part of points: balance = sum of the ledger, which has no gap."""
    rows = [row async for row in queries.audit_balances(conn)]
    wrong = [str(row["id"]) for row in rows if row["wrong"]]
    steps = await queries.audit_ledger(conn)
    return [
        Finding(7, "points balance = sum of the ledger", len(rows), len(wrong), tuple(wrong[:5])),
        Finding(
            7,
            "every ledger entry continues the one before",
            steps["checked"],
            steps["failed"],
            tuple(steps["examples"] or ()),
        ),
    ]

"""Routes to see how the daemon is, and to back it up."""

from typing import Final

from gateway.http import backup, doctor, operations
from gateway.http.routes.vocabulary import ADMIN, STORE
from gateway.http.routing import Route
from gateway.problems import Code

ROUTES: Final = (
    Route(
        "GET", "/v1/doctor", "doctor", doctor.show,
        "Show how the daemon is, and what is not in order",
        scopes=ADMIN,
        answer=doctor.DoctorView,
        description="Of all tenants, so for administrators of `system` alone.",
    ),
    Route(
        "GET", "/v1/backup", "backup", backup.backup,
        "Fetch a consistent copy of the database",
        scopes=ADMIN,
        media_type=backup.MEDIA_TYPE,
        description=(
            "Of all tenants, so for administrators of `system` alone. Only where the database is SQLite; the master key is "
            "not in it. Wherever the copy is opened, sending is paused until somebody resumes it."
        ),
        answer_headers={"Content-Disposition": "A name for the file, with the time as of which it is."},
        problems=(Code.BACKUP_RUNNING, Code.BACKUP_BY_SERVER, *STORE),
    ),
    Route("GET", "/livez", "livez", operations.livez, "Is the daemon alive?", answer=operations.HealthView),
    Route(
        "GET", "/readyz", "readyz", operations.readyz,
        "Is the daemon ready, and if not, why?",
        answer=operations.HealthView,
        description="503 with reasons while it is not.",
    ),
)  # fmt: skip

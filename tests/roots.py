"""A workplace with registered versions of a tiny model, for tests of what moves root."""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from tunetrail.config import TrackingConfig
from tunetrail.deployment.flavors import EmbeddingFlavor
from tunetrail.deployment.gate import Decision
from tunetrail.deployment.model_version import ModelVersion
from tunetrail.deployment.promotion import Candidate, CandidateLedger, deploy
from tunetrail.deployment.registry import Registry
from tunetrail.deployment.root_alias import RootAlias
from tunetrail.deployment.root_moves import RootMoves
from tunetrail.learning.embedding.reader import load_embedding_model
from tunetrail.stores.database.ledger import root_line
from tunetrail.stores.database.manager import DatabaseManager, PromotionRecord
from tunetrail.stores.tracking.tracker import Tracker

PROMOTE = Decision(promote=True, reason="better")
REFUSE = Decision(promote=False, reason="not better")
WAIT = Decision(promote=False, reason="better", waiting=True)


@cache
def _base_model(folder: str) -> SentenceTransformer:
    """Load a base model once: a copy takes a fifth of the time."""
    return load_embedding_model(folder).eval()


@dataclass(kw_only=True)
class Workplace:
    """Stores and folders in which tiny models are trained, as it were, and deployed.

    Attributes:
        folder: Holds everything.
        base: Folder of the tiny model.
        database_url: Database of the ledger; by default a SQLite file in the folder.
        name: The registered model.
        server: Address of an MLflow server; by default a SQLite file in the folder.
    """

    folder: Path
    base: str
    database_url: str = ""
    name: str = "embedding"
    server: str = ""

    def __post_init__(self) -> None:
        self.database_url = self.database_url or f"sqlite:///{self.folder}/tunetrail.db"
        self.database = DatabaseManager(self.database_url)
        config = TrackingConfig(uri=self.uri)
        # A server has a place of its own.
        if not self.server:
            config = TrackingConfig(uri=self.uri, artifacts=str(self.folder / "mlartifacts"))
        self.registry = Registry(Tracker(config), self.name, EmbeddingFlavor())

    @property
    def uri(self) -> str:
        return self.server or f"sqlite:///{self.folder}/mlflow.db"

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def moves(self) -> RootMoves:
        alias = RootAlias(tracker=self.registry.tracker, name=self.name)
        return RootMoves(alias=alias, model_dir=self.models, database=self.database)

    def candidate(self, seed: int) -> Candidate:
        """Return a model whose weights differ from those of every other seed."""
        model = copy.deepcopy(_base_model(self.base))
        with torch.no_grad():
            next(model.parameters()).add_(0.01 * seed)

        def save(folder: Path) -> None:
            model.save_pretrained(str(folder), create_model_card=False)

        run = self.registry.tracker.start_run("embedding")
        return Candidate(
            model=model, save=save, run=run, base_model="tiny", probes=["a text"], tags={}
        )

    def deploy(
        self,
        candidate: Candidate,
        decision: Decision = PROMOTE,
        on_decision: Callable[[ModelVersion, Decision], None] = lambda version, decision: None,
        to_beat: ModelVersion | str | None = "root",
    ) -> ModelVersion:
        """Take a candidate through its deployment, compared with the present root."""
        beaten = self.registry.root() if isinstance(to_beat, str) else to_beat

        def record_of(version: ModelVersion, decision: Decision) -> PromotionRecord:
            return PromotionRecord(
                model_name=self.name,
                version=version.version,
                previous_version=beaten.version if beaten else None,
                decision=decision.word,
                reason=decision.reason,
                metric="ndcg_at_10",
                before=0.5,
                after=0.6,
                improvement=0.1,
                lower=0.05,
                upper=0.15,
                session_id="s1",
                mlflow_run_id=candidate.run.run_id,
                digest=version.digest,
                actor="anna@host",
                details={
                    "configuration": {"seed": int(version.version), "output_dir": "x"},
                    "data": {"name": "s1"},
                    "metrics": {"candidate": {"ndcg_at_10": 0.6}},
                },
            )

        ledger = CandidateLedger(database=self.database, record_of=record_of)
        deployed = deploy(
            candidate, decision, self.registry, beaten, self.models, on_decision, ledger
        )
        candidate.run.finish("succeeded")
        return deployed.version

    def train(self, seed: int, decision: Decision = PROMOTE) -> ModelVersion:
        return self.deploy(self.candidate(seed), decision)

    def lines(self) -> list[tuple[str, str, str | None]]:
        """Return version, decision and previous version of each decision, oldest first."""
        return [
            (line.version, line.decision, line.previous_version)
            for line in self.database.promotions(self.name)
        ]

    def exported(self) -> str | None:
        """Return the version that the exported root is."""
        link = self.models / self.name / "root"
        return link.readlink().name if link.is_symlink() else None

    def digest(self) -> str:
        """Return a digest of all names and bytes of the exported root."""
        digest, root = hashlib.sha256(), self.models / self.name / "root"
        for path in sorted(root.rglob("*")):
            if path.is_file():
                digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()

    def check(self) -> None:
        """Assert that alias, ledger and folder say the same, and that root loads."""
        root = self.registry.root()
        line = root_line(self.database.ledger_lines(self.name))
        assert (root and root.version) == (line and line.version) == self.exported()
        if root is not None:
            vectors = EmbeddingFlavor().outputs(self.registry.load(root), ["a text"])
            exported = load_embedding_model(str(self.models / self.name / "root")).eval()
            assert abs(EmbeddingFlavor().outputs(exported, ["a text"]) - vectors).max() < 1e-6
        assert_linear(self.database.promotions(self.name))


def assert_linear(lines: list[PromotionRecord]) -> None:
    """Assert that each move of root began where the one before it ended."""
    root: str | None = None
    for line in lines:
        if line.decision in ("promoted", "forced", "rolled back", "moved by hand"):
            assert line.previous_version == root, (line, root)
            root = None if line.version == "base" else line.version

"""What a local diffusers folder says of itself, beside its parts: its pipeline and its scheduler."""

from pathlib import Path
from typing import Any

from ditq.core.errors import UserError
from ditq.core.files import read_json
from ditq.core.schema import checked
from ditq.models.diffusionkit.hub import Files, snapshot


class DiffusersFiles(Files):
    """Files of a model that is published as a diffusers folder."""

    def scheduler(self) -> dict[str, Any]:
        """The scheduler's config of a local folder; empty without one."""
        config = self._local("scheduler/scheduler_config.json")
        return {} if config is None else checked(read_json(config), dict[str, Any], str(config))

    def check_prediction(self, others: str) -> None:
        """Raises UserError where the folder's model predicts something else than the noise; `others` says what does."""
        found = str(self.scheduler().get("prediction_type", "epsilon"))
        if found != "epsilon":
            raise UserError(
                f"{self.path}: scheduler",
                got=f"prediction_type {found}",
                expected=f"epsilon, as {self.name} has",
                remedy=others,
            )

    def another_pipeline(self, wanted: str) -> UserError | None:
        """What to raise where the folder is that of another pipeline than the one `wanted`."""
        index = self._local("model_index.json")
        if index is None:
            return None
        found = checked(read_json(index), dict[str, Any], str(index)).get("_class_name")
        if found == wanted:
            return None
        expected = f"{wanted}, as {self.name} has"
        return UserError(str(index), got=f"a folder of {found}", expected=expected)

    def _local(self, name: str) -> Path | None:
        """A file of a local folder, where it is there."""
        file = None if self.path is None else snapshot(self.path) / name
        return file if file is not None and file.is_file() else None

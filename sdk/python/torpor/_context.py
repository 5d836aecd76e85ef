"""The second argument of a handler."""


class Context:
    """Which execution this is. Its attributes can't be set."""

    __slots__ = ("_execution_id", "_portion", "_task", "_version")

    def __init__(self, execution_id: str, task: str, version: str, portion: str = "main") -> None:
        self._execution_id = execution_id
        self._task = task
        self._version = version
        self._portion = portion

    @property
    def execution_id(self) -> str:
        """Id of the execution, as ``torpor inspect`` takes it."""
        return self._execution_id

    @property
    def task(self) -> str:
        """Name of the task."""
        return self._task

    @property
    def version(self) -> str:
        """Version of the task, lower-case hex."""
        return self._version

    @property
    def portion(self) -> str:
        """Portion of the task."""
        return self._portion

    def __repr__(self) -> str:
        return f"Context(execution_id={self._execution_id!r}, task={self._task!r}, version={self._version!r})"

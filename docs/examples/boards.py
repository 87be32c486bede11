"""A logger that shows losses in TensorBoard. It needs `pip install tensorboard`.

    psld train logger=boards:TensorBoard name=boards

Then `tensorboard --logdir boards` shows the losses. If a logger raises an error, its traceback is
printed, and the logger is not called again. A logger is also not called again if a call takes more
than five seconds. The training continues in both cases.
"""

from psld.parts import Logger


class TensorBoard(Logger):
    """Write each number of the history as a curve."""

    def start(self, run, settings, from_step):
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(f"boards/{run.name}")

        def log(entry):  # None at the end of the training
            for name, value in (entry or {}).items():
                writer.add_scalar(name, value, entry["step"], entry["time"])
            writer.flush()

        return log

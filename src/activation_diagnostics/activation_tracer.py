from ditq.capture import Recorder as Recorder
from ditq.capture import traced as traced
from ditq.diagnostics import ChannelStatistics as ChannelStatistics

if __name__ == "__main__":
    from ditq.cli.library import tell

    tell("activation_tracer")

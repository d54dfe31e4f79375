from ditq.capture import Recorder as Recorder
from ditq.capture import traced as traced
from ditq.diagnostics import ChannelStatistics as ChannelStatistics

from ditq.diagnostics import ChannelStatistics as ChannelStatistics
from ditq.diagnostics import Recorder as Recorder
from ditq.diagnostics import traced as traced

"""Published experiments, run again: what somebody measured beside what the models here give."""

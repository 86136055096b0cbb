"""The load generator of `korder rush`, its figures and its report. It knows only the contract."""

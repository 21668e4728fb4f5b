"""The calibrators by the names that commands and files give them."""

from jaxcal.recalibration import temperature

RECALIBRATORS = {"temperature": temperature.Temperature}

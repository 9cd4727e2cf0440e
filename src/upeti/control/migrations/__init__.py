"""Steps from one shape of the state's tables to the next, run by ``control/store`` when it opens them."""

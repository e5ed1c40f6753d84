PID=$$

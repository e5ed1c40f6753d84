# A library with a PLT.
cp "$(python3 -c 'import _ssl; print(_ssl.__file__)')" libfoo.so

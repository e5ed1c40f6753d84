cp "$(python3 -c 'import _ssl; print(_ssl.__file__)')" FILE
mkdir FOLDER
cp FILE FOLDER

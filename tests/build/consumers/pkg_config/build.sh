g++ -std=c++17 -O3 $(pkg-config --cflags hydralora) your_program.cpp -o your_program

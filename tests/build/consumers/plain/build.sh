g++ -std=c++17 -O3 -I hydralora/include -isystem /usr/include/eigen3 your_program.cpp -o your_program

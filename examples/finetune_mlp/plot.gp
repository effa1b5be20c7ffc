# gnuplot -e "folder='out'" plot.gp: curves.csv to curves.svg, the validation loss of every method in fine-tuning;
# routing.csv to routing.svg, what share of every part of the text HydraLoRA's heads have, layer by layer.
file = folder.'/curves.csv'
set terminal svg size 820,480 dynamic background "white" font "sans-serif,14"
set output folder.'/curves.svg'
set datafile separator comma
set key top right
set grid ytics lc rgb "#dddddd"
set border 3
set tics nomirror
set xlabel "fine-tuning step"
set ylabel "validation loss, bits per byte, mean of the parts"
methods = '"full fine-tuning" "LoRA same rank" "LoRA same size" "SplitLoRA" "HydraLoRA"'
do for [i=1:5] {set linetype i lc rgb word("#7f7f7f #9ecae1 #1f77b4 #2ca02c #d62728", i)}
plot for [i=1:words(methods)] file using (strcol(1) eq word(methods, i) ? $2 : NaN):4 \
  with linespoints pointtype 7 pointsize 0.5 linewidth 2 title word(methods, i)
print folder.'/curves.svg written'

set output folder.'/routing.svg'
set terminal svg size 820,360 dynamic background "white" font "sans-serif,14"
rows(layer) = sprintf("< grep '^HydraLoRA,%d,' %s/routing.csv", layer, folder)
stats rows(1) using 0 nooutput
heads = STATS_columns - 3
parts = STATS_records
do for [i=1:4] {set linetype i lc rgb word("#1f77b4 #ff7f0e #2ca02c #d62728", i)}
unset key
unset xlabel
set ylabel "mean weight of each head"
set yrange [0:1]
set style data histogram
set style histogram rowstacked title offset 0,-1
set style fill solid 0.9 border rgb "white"
set boxwidth 0.85
set bmargin 5
set xtics scale 0
plot newhistogram "layer 1" lt 1 at 0, for [h=4:3+heads] rows(1) using h:xtic(3), \
  newhistogram "layer 2" lt 1 at parts+1, for [h=4:3+heads] rows(2) using h:xtic(3), \
  newhistogram "layer 3" lt 1 at 2*(parts+1), for [h=4:3+heads] rows(3) using h:xtic(3)
print folder.'/routing.svg written'
